"""RS256 JSON web tokens, written from RFC 7515 and 7519 without a library that the program uses."""

import base64
import json
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa


class InvalidToken(Exception):
    """The token has no valid signature of this key."""


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def sign(key: rsa.RSAPrivateKey, claims: Mapping[str, object], kid: str) -> str:
    head = json.dumps({"alg": "RS256", "typ": "JWT", "kid": kid}).encode()
    signed = f"{b64(head)}.{b64(json.dumps(claims).encode())}"
    return f"{signed}.{b64(key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def verify(key: rsa.RSAPublicKey, token: str) -> dict[str, Any]:
    """Return the claims of a token that `key` has signed. The caller checks the times."""
    signed, _, signature = token.rpartition(".")
    try:
        key.verify(unb64(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        claims = json.loads(unb64(signed.partition(".")[2]))
    except (InvalidSignature, ValueError) as error:
        raise InvalidToken("the token is not one that was issued here") from error
    if not isinstance(claims, dict):
        raise InvalidToken("the token has no claims")
    return claims


def jwk_of(key: rsa.RSAPublicKey, kid: str) -> dict[str, str]:
    numbers = key.public_numbers()
    return {
        "kty": "RSA",
        "use": "sig",
        "alg": "RS256",
        "kid": kid,
        "n": b64(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")),
        "e": b64(numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8, "big")),
    }


def key_of(jwk: Mapping[str, str]) -> rsa.RSAPublicKey:
    n, e = (int.from_bytes(unb64(jwk[part]), "big") for part in ("n", "e"))
    return rsa.RSAPublicNumbers(e, n).public_key()
