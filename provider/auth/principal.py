"""A principal: an identity in OCI, with the key that signs its requests."""

import re
from typing import NamedTuple, TypeGuard

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from provider.auth.region import RegionInfo
from provider.auth.signer import Signer

# It becomes part of a header.
_SECURITY_TOKEN = re.compile(r"[A-Za-z0-9_=.-]+", re.A)
_PEM = re.compile(rb"\s*-----BEGIN [A-Z ]+-----([A-Za-z0-9+/=\s]+)-----END [A-Z ]+-----\s*")


class Principal(NamedTuple):
    """An identity in OCI. ``name`` is for the log, and is not secret.

    ``region`` is the instance's region, if the metadata service was asked for it. ``expires_in`` limits, in
    seconds, how long its registry token may be shared. ``caveat`` is added to the message if OCIR refuses the
    principal.
    """

    name: str
    signer: Signer
    region: RegionInfo | None = None
    expires_in: int | None = None
    caveat: str = ""


def is_security_token(text: object) -> bool:
    """Report whether ``text`` can be a security token: ASCII without spaces."""
    return isinstance(text, str) and bool(_SECURITY_TOKEN.fullmatch(text))


def can_sign(key: object) -> TypeGuard[RSAPrivateKey]:
    """Report whether OCI accepts signatures of ``key``: RSA, 2048 bits or more.

    Raises ValueError if the numbers of the key are inconsistent, which only signing shows.
    """
    if not isinstance(key, RSAPrivateKey) or key.key_size < 2048:
        return False
    key.sign(b"", PKCS1v15(), SHA256())
    return True


def pem_body(pem: bytes) -> str | None:
    """Return the base64 text of a PEM block without line breaks; None if ``pem`` is not one PEM block."""
    block = _PEM.fullmatch(pem)
    return b"".join(block[1].split()).decode() if block else None


def public_key(key: RSAPrivateKey) -> str:
    """Return the public key in the form that OCI's endpoints take: a PEM body."""
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    body = pem_body(pem)
    assert body
    return body
