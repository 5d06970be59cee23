"""The OKE credential provider: OCIR credentials for the kubelet, with no stored password."""

__version__ = "0.1.0"
