"""What tests share: the kubelet's side, nodes, the built forms."""
