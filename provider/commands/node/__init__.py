"""Facts about this node: its kubelets, their systemd unit, and files."""
