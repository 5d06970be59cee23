"""The key of one call. A module of its own, since it is wanted long before the rest of cryptography."""

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key


def session_key() -> RSAPrivateKey:
    """A key for this call alone: the federation token is bound to it. Takes some 40 ms of CPU, in
    which other threads run.
    """
    return generate_private_key(65537, 2048)
