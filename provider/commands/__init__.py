"""The commands that people run. A kubelet call loads no module of this package."""
