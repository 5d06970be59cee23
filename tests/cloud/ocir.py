"""OCIR: the token endpoint, and the registry's own API in front of a real registry."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import json
import re
import secrets
import time
from urllib.parse import parse_qs

from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cloud import jwt, pki, signatures
from tests.cloud.http1 import Request, Response, json_response, refuse
from tests.cloud.iam import Principal, is_public, may_read, names
from tests.cloud.model import Endpoint, Place
from tests.cloud.signatures import Refused
from tests.cloud.state import State

TOKEN_PATH = "/20180419/docker/token"  # noqa: S105 - a path
USER = "BEARER_TOKEN"
ANONYMOUS = "Anonymous users are only allowed read access on public repos"

_RESOURCE = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs|tags)/(?P<what>[^/]+)")
_SCOPE = re.compile(r"repository:(?P<repository>[^:]+):(?P<actions>[a-z,*]+)")

# What stands for an image while no real registry is behind the stand-in.
_MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": f"sha256:{hashlib.sha256(b'{}').hexdigest()}",
            "size": 2,
        },
        "layers": [],
    }
).encode()


def endpoint_of(path: str) -> Endpoint:
    if path == TOKEN_PATH:
        return "token"
    if path in ("/v2/", "/v2"):
        return "ping"
    match = _RESOURCE.fullmatch(path)
    if match is None:
        return "registry.unknown"
    return "blob" if match["kind"] == "blobs" else "manifest"


async def answer(state: State, place: Place, request: Request) -> Response:
    try:
        signatures.check_host(request, place.hosts)
    except Refused as refusal:
        return refuse(421, "Misdirected", str(refusal))
    match endpoint_of(request.path):
        case "token":
            return _token(state, place, request)
        case "registry.unknown":
            return refuse(404, "NotAuthorizedOrNotFound", f"nothing at {request.path[:80]!r}")
        case "ping":
            return _ping(state, place, request)
        case _:
            return await _resource(state, place, request)


# --- the token endpoint ------------------------------------------------------------------------


def _token(state: State, place: Place, request: Request) -> Response:
    if request.method != "GET":
        # Docker clients try POST first and take this as a no.
        return refuse(405, "MethodNotAllowed", f"{request.method} is not GET")
    query = parse_qs(request.query)
    scopes = [scope for text in query.get("scope", []) for scope in text.split(" ")]
    service = query.get("service", [""])[0]
    if service and service not in place.hosts:
        return refuse(400, "InvalidParameter", f"service {service[:80]!r} is not this registry")
    authorization = request.get("authorization")
    try:
        if authorization is None:
            return _repository_token(state, place, None, scopes)
        if authorization.startswith("Basic "):
            principal = _registry_principal(state, place, _basic_token(authorization))
            return _repository_token(state, place, principal, scopes)
        principal = verify(state, place, request)
    except Refused as refusal:
        return refuse(401, "NotAuthenticated", str(refusal))
    # Handed out whatever the policies say: OCIR looks at them only when something is read.
    now = state.now()
    claims = {
        "sub": principal.ocid,
        "tenant": principal.tenancy,
        "compartment": principal.compartment,
        "realm": principal.realm,
        "proven": principal.proven_at,
        "iss": "ocir",
        "iat": int(now),
        "exp": now + state.registry_lifetime_s,
        "jti": secrets.token_hex(8),
        "use": "registry",
    }
    token = state.keep("registry token", jwt.sign(state.token_key, claims, "ocir_standin"))
    return json_response(
        200,
        {
            "token": token,
            "access_token": token,
            "scope": " ".join(scopes),
            "expires_in": int(state.registry_lifetime_s),
        },
    )


def verify(state: State, place: Place, request: Request) -> Principal:
    """Who signed the request. Raises Refused, saying which check failed."""
    signature = signatures.parse(request.get("authorization"))
    signatures.check_covered(signature, ("date", "(request-target)", "host"))
    signatures.check_date(request, state.now())
    if signature.key_id.startswith("ST$"):
        principal, key = _security_principal(state, signature.key_id[3:])
    else:
        found = state.users.get(signature.key_id)
        if found is None:
            raise Refused("no API key with this keyId is known")
        key = found
        tenancy, user, _ = signature.key_id.split("/")
        principal = Principal(user, tenancy, None, state.imds.region.realm, state.now())
    _check_realm(place, principal)
    signatures.check_signature(request, signature, key)
    return principal


def _security_principal(state: State, token: str) -> tuple[Principal, rsa.RSAPublicKey]:
    claims = _claims(state, token, "security")
    return _principal(claims), jwt.key_of(json.loads(claims["jwk"]))


def _registry_principal(state: State, place: Place, token: str) -> Principal:
    principal = _principal(_claims(state, token, "registry"))
    _check_realm(place, principal)
    return principal


def _claims(state: State, token: str, use: str) -> dict[str, object] | dict[str, str]:
    raise NotImplementedError


def _principal(claims: dict[str, object]) -> Principal:
    raise NotImplementedError
