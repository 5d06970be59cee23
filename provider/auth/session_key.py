"""The session key. A separate module, because a call needs it long before the rest of cryptography."""

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key


def session_key() -> RSAPrivateKey:
    """Make a key for this call; OCI binds the security token to it. Takes about 40 ms of CPU time, during
    which other threads run.
    """
    return generate_private_key(65537, 2048)
