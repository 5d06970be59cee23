"""Verification of signed requests, written from the published scheme without code of an SDK.

The scheme is draft-cavage-http-signatures-08 with the rules of OCI's "Request Signatures" page: version 1,
rsa-sha256; `(request-target)` is the method in lower case and the target as sent; a header is
`name: value`; one newline joins the lines.
"""

import base64
import binascii
import email.utils
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.cloud.http1 import Request

MAX_SKEW_S = 300.0  # OCI refuses a Date with a skew of more than five minutes
BODY_HEADERS = ("content-length", "content-type", "x-content-sha256")

_PARAMETER = re.compile(r'\s*([A-Za-z]+)="([^"]*)"\s*(?:,|$)')


class Refused(Exception):
    """The request is not authentic. The text has the reason and quotes no secret."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters of an `Authorization: Signature ...` header."""

    key_id: str
    headers: tuple[str, ...]
    signature: bytes


def parse(authorization: str | None) -> Signature:
    """Parse a Signature header. Raises Refused if it is incomplete or malformed."""
    if authorization is None:
        raise Refused("no Authorization header")
    scheme, _, rest = authorization.partition(" ")
    if scheme != "Signature":
        raise Refused(f"Authorization scheme {scheme[:16]!r} is not Signature")
    parameters: dict[str, str] = {}
    position = 0
    while position < len(rest):
        match = _PARAMETER.match(rest, position)
        if match is None:
            raise Refused("malformed Signature parameters")
        if match[1] in parameters:
            raise Refused(f"Signature parameter {match[1]} twice")
        parameters[match[1]] = match[2]
        position = match.end()
    if missing := {"version", "keyId", "algorithm", "headers", "signature"} - set(parameters):
        raise Refused(f"Signature parameters missing: {' '.join(sorted(missing))}")
    if parameters["version"] != "1":
        raise Refused("Signature version is not 1")
    if parameters["algorithm"] != "rsa-sha256":
        raise Refused("Signature algorithm is not rsa-sha256")
    try:
        signature = base64.b64decode(parameters["signature"], validate=True)
    except binascii.Error as error:
        raise Refused("the signature is not base64") from error
    return Signature(parameters["keyId"], tuple(parameters["headers"].split(" ")), signature)


def signing_string(request: Request, covered: Sequence[str]) -> bytes:
    """Return the text that the client signed. Raises Refused if a covered header is absent or repeated."""
    lines = []
    for name in covered:
        if name == "(request-target)":
            lines.append(f"(request-target): {request.method.lower()} {request.target}")
            continue
        values = [v for n, v in request.headers if n == name]
        if len(values) != 1:
            raise Refused(f"covered header {name} sent {len(values)} times")
        lines.append(f"{name}: {values[0]}")
    return "\n".join(lines).encode("latin-1")


def check_covered(signature: Signature, required: Sequence[str], *, exactly: bool = False) -> None:
    """Raises Refused unless the signature covers `required` and, if `exactly`, nothing else."""
    if missing := [name for name in required if name not in signature.headers]:
        raise Refused(f"the signature does not cover {' '.join(missing)}")
    if exactly and sorted(signature.headers) != sorted(required):
        raise Refused(f"the signature must cover exactly {' '.join(required)}")


def check_date(request: Request, now: float) -> None:
    """Raises Refused unless the Date header is within five minutes of `now` (epoch seconds)."""
    try:
        sent = email.utils.parsedate_to_datetime(request.get("date") or "").timestamp()
    except ValueError as error:
        raise Refused("the Date header is missing or not a date") from error
    if abs(sent - now) > MAX_SKEW_S:
        raise Refused(f"the Date header is {sent - now:+.0f} s off the server's clock")


def check_host(request: Request, hosts: Sequence[str]) -> None:
    """Raises Refused unless the Host header is one of `hosts`, with or without :443."""
    host = request.get("host") or ""
    if host.removesuffix(":443") not in hosts:
        raise Refused(f"host {host[:80]!r} is not served here")


def check_body(request: Request) -> None:
    """Raises Refused unless x-content-sha256 and content-length match the body."""
    digest = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
    if request.get("x-content-sha256") != digest:
        raise Refused("x-content-sha256 is not the hash of the body")
    if request.get("content-length") != str(len(request.body)):
        raise Refused("content-length is not the length of the body")


def check_signature(request: Request, signature: Signature, key: rsa.RSAPublicKey) -> None:
    """Raises Refused unless the signature over the covered parts is from `key`."""
    try:
        key.verify(
            signature.signature,
            signing_string(request, signature.headers),
            padding.PKCS1v15(),
            hashes.SHA256(),
        )
    except InvalidSignature as error:
        raise Refused("the signature does not verify") from error
