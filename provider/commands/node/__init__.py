"""Facts about this node: its kubelet, the kubelet's systemd unit, and files."""
