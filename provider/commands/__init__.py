"""The commands that people run. A kubelet call imports nothing of this package."""
