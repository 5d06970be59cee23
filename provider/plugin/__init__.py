"""The exec contract: what the kubelet and container tools call."""
