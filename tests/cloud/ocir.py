"""OCIR: the token endpoint, and the registry API in front of a real registry."""

import asyncio
import base64
import binascii
import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qs

from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cloud import jwt, pki, signatures
from tests.cloud.http1 import Request, Response, json_response, refuse
from tests.cloud.iam import Principal, may_read, names
from tests.cloud.model import (
    ISSUER,
    NAMESPACE,
    REGISTRY_USER,
    SERVICE,
    Endpoint,
    Place,
    Workload,
    from_json,
    to_json,
)
from tests.cloud.signatures import Refused
from tests.cloud.state import State

TOKEN_PATH = "/20180419/docker/token"
_CLIENT_LIFETIME_S = 300.0  # lifetime of the tokens that Docker clients get for their credentials
ANONYMOUS = "Anonymous users are only allowed read access on public repos"

_RESOURCE = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs|tags)/(?P<what>[^/]+)")
_SCOPE = re.compile(r"repository:(?P<repository>[^:]+):(?P<actions>[a-z,*]+)")

# The image without a real registry.
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


def namespace(state: State, place: Place, request: Request) -> Response:
    """Object Storage's GetNamespace: the namespace of the principal's tenancy."""
    if (request.method, request.path) != ("GET", "/n"):
        return refuse(404, "NotAuthorizedOrNotFound", f"nothing at {request.path[:80]!r}")
    try:
        verify(state, place, request)
    except Refused as refusal:
        return refuse(401, "NotAuthenticated", str(refusal))
    return json_response(200, NAMESPACE)


# --- the token endpoint ------------------------------------------------------------------------


def _token(state: State, place: Place, request: Request) -> Response:
    if request.method != "GET":
        # Docker clients try POST first and accept this refusal.
        return refuse(405, "MethodNotAllowed", f"{request.method} is not GET")
    query = parse_qs(request.query)
    scopes = [scope for text in query.get("scope", []) for scope in text.split(" ")]
    service = query.get("service", [""])[0]
    if service and service not in place.hosts:
        return refuse(400, "InvalidParameter", f"service {service[:80]!r} is not this registry")
    repositories = []
    for scope in filter(None, scopes):
        match = _SCOPE.fullmatch(scope)
        if match is None:
            return refuse(400, "InvalidParameter", f"scope {scope[:80]!r} is not understood")
        repositories.append(match["repository"])
    authorization = request.get("authorization")
    if authorization is None and not repositories:
        return _denied(None)
    try:
        if authorization is None:
            principal = None
        elif authorization.startswith("Basic "):
            principal = _registry_principal(state, place, _basic_token(authorization))
        else:
            principal = verify(state, place, request)
    except Refused as refusal:
        return refuse(401, "NotAuthenticated", str(refusal))
    # OCIR issues tokens to everyone, also to anonymous clients. It checks policies only for reads.
    signed = authorization is not None and not authorization.startswith("Basic ")
    life = state.registry_lifetime_s if signed else _CLIENT_LIFETIME_S
    now = state.now()
    claims = {
        **(_claims_of(principal) if principal else {"sub": ""}),
        "repositories": repositories,
        "iss": "ocir",
        "iat": int(now),
        "exp": now + life,
        "jti": secrets.token_hex(8),
        "use": "registry",
    }
    kind = "registry token" if signed else "client's token"
    token = state.keep(kind, jwt.sign(state.token_key, claims, "ocir_standin"))
    scope = " ".join(scopes)
    content = {"token": token, "access_token": token, "scope": scope, "expires_in": int(life)}
    return json_response(200, content)


def _claims_of(principal: Principal) -> dict[str, object]:
    return {
        "sub": principal.ocid,
        "tenant": principal.tenancy,
        "compartment": principal.compartment,
        "realm": principal.realm,
        "workload": to_json(principal.workload),
        "proven": principal.proven_at,
    }


def verify(state: State, place: Place, request: Request) -> Principal:
    """Return the principal that signed the request. Raises Refused with the failed check."""
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


def _claims(state: State, token: str, use: str) -> dict[str, Any]:
    """Return the claims of a valid token for `use`. Raises Refused."""
    try:
        claims = jwt.verify(state.token_key.public_key(), token)
    except jwt.InvalidToken as error:
        raise Refused(str(error)) from error
    if claims.get("use") != use:
        raise Refused(f"the token is not a {use} token")
    if claims["exp"] <= state.now():
        raise Refused(f"the {use} token has expired")
    return claims


def _principal(claims: Mapping[str, Any]) -> Principal:
    compartment = claims.get("compartment", claims.get("opc-compartment"))
    workload = from_json(Workload, claims["workload"]) if claims["workload"] else None
    return Principal(
        claims["sub"], claims["tenant"], compartment, claims["realm"], claims["proven"], workload
    )


def _check_realm(place: Place, principal: Principal) -> None:
    if place.region is None or principal.realm != place.region.realm:
        raise Refused("the principal is of another realm")


def _basic_token(authorization: str) -> str:
    try:
        text = base64.b64decode(authorization.removeprefix("Basic "), validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise Refused("malformed Basic credentials") from error
    user, _, password = text.partition(":")
    if user != REGISTRY_USER:
        raise Refused(f"the user is not {REGISTRY_USER}")
    return password


def repository_token(state: State, service: str, access: Sequence[Mapping[str, object]]) -> str:
    """Return a token for docker-registry with `access`. The stand-in and the harness use it."""
    now = int(state.now())
    claims = {
        "iss": ISSUER,
        "sub": "",
        "aud": SERVICE,
        "service": service,
        # docker-registry uses the clock of the machine, not that of the stand-in.
        "exp": max(now, int(time.time())) + 300,
        "nbf": min(now, int(time.time())) - 10,
        "iat": now,
        "jti": secrets.token_hex(8),
        "access": list(access),
        "use": "repository",
    }
    kid = pki.libtrust_id(state.token_key.public_key())
    return state.keep("repository token", jwt.sign(state.token_key, claims, kid))


def _denied(principal: Principal | None) -> Response:
    """Return the 403 that users see."""
    message = ANONYMOUS if principal is None else f"User UserId({principal.ocid}) not authorized"
    return _error(403, "DENIED", message)


def _error(status: int, code: str, message: str, *headers: tuple[str, str]) -> Response:
    """Return a refusal in the form of the distribution specification."""
    body = {"errors": [{"code": code, "message": message}]}
    return replace(json_response(status, body, *headers), refusal=message)


# --- the registry ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reader:
    """The principal of a token, and the `repositories` of the token (empty: all)."""

    principal: Principal | None
    repositories: tuple[str, ...]


def _unauthenticated(place: Place, request: Request, reason: str) -> Response:
    """Return a 401: with a challenge if no token was sent, with OCIR's message for a bad token."""
    if request.get("authorization"):
        return replace(_error(401, "UNKNOWN", "Unauthorized"), refusal=reason)
    host = (request.get("host") or place.hosts[0]).removesuffix(":443")
    challenge = f'Bearer realm="https://{host}{TOKEN_PATH}",service="{host}"'
    if match := _RESOURCE.fullmatch(request.path):
        challenge += f',scope="repository:{match["repository"]}:pull"'
    version = ("Docker-Distribution-Api-Version", "registry/2.0")
    return _error(401, "UNAUTHORIZED", reason, ("WWW-Authenticate", challenge), version)


def _reader(state: State, place: Place, request: Request) -> _Reader:
    """Raises Refused unless the request has a valid bearer token."""
    scheme, _, token = (request.get("authorization") or "").partition(" ")
    if scheme != "Bearer":
        raise Refused("authentication required")
    claims = _claims(state, token, "registry")
    principal = _principal(claims) if claims["sub"] else None
    if principal:
        _check_realm(place, principal)
    return _Reader(principal, tuple(claims["repositories"]))


def _ping(state: State, place: Place, request: Request) -> Response:
    try:
        _reader(state, place, request)
    except Refused as refusal:
        return _unauthenticated(place, request, str(refusal))
    return json_response(200, {}, ("Docker-Distribution-Api-Version", "registry/2.0"))


async def _resource(state: State, place: Place, request: Request) -> Response:
    match = _RESOURCE.fullmatch(request.path)
    assert match is not None
    repository = match["repository"]
    try:
        reader = _reader(state, place, request)
    except Refused as refusal:
        return _unauthenticated(place, request, str(refusal))
    in_scope = not reader.repositories or repository in reader.repositories
    # Any valid token can read public repositories.
    if not in_scope or not may_read(state.iam, reader.principal, repository, state.now()):
        return _denied(reader.principal)
    if request.method not in ("GET", "HEAD"):
        return refuse(405, "MethodNotAllowed", f"{request.method} is not for pulls")
    if not names(state.iam.repositories, repository):
        return _error(404, "NAME_UNKNOWN", f"repository name not known to registry: {repository}")
    if names(state.iam.untagged, repository) and match["what"] == "latest":
        return _error(404, "MANIFEST_UNKNOWN", f"unknown tag=latest in {repository}")
    if state.upstream_port is not None:
        return await _proxy(state, state.upstream_port, request, repository)
    return _stored(request, match["kind"], match["what"])


def _stored(request: Request, kind: str, what: str) -> Response:
    digest = f"sha256:{hashlib.sha256(_MANIFEST).hexdigest()}"
    if kind == "blobs":
        found = what == json.loads(_MANIFEST)["config"]["digest"]
        return Response(200, b"{}") if found else _error(404, "BLOB_UNKNOWN", what)
    if what.startswith("sha256:") and what != digest:
        return _error(404, "MANIFEST_UNKNOWN", what)
    media_type = json.loads(_MANIFEST)["mediaType"]
    headers = (("Docker-Content-Digest", digest),)
    if request.method == "HEAD":
        return Response(200, b"", headers, media_type, length=len(_MANIFEST))
    return Response(200, _MANIFEST, headers, media_type)


async def _proxy(state: State, port: int, request: Request, repository: str) -> Response:
    """Forward an authorized request to docker-registry, with a token for it."""
    access = [{"type": "repository", "name": repository, "actions": ["pull"]}]
    token = repository_token(state, SERVICE, access)
    head = [f"{request.method} {request.target} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    head += [f"Accept: {value}" for name, value in request.headers if name == "accept"]
    head += [f"Range: {value}" for name, value in request.headers if name == "range"]
    head += [f"Authorization: Bearer {token}", "Connection: close", "", ""]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write("\r\n".join(head).encode("latin-1"))
        raw = await reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        status = int(first.split(" ")[1])
        fields = [(n.strip(), v.strip()) for n, _, v in (line.partition(":") for line in lines)]
        length = next((int(v) for n, v in fields if n.lower() == "content-length"), 0)
        # Each answer of docker-registry to a pull has a length.
        body = b"" if request.method == "HEAD" else await reader.readexactly(length)
    finally:
        writer.close()
    if status == 404:
        code = json.loads(body)["errors"][0]["code"] if body else "UNKNOWN"
        return _error(404, code, f"not known to the registry: {request.path}")
    kept = ("docker-content-digest", "etag", "content-type", "docker-distribution-api-version")
    headers = tuple((n, v) for n, v in fields if n.lower() in (*kept, "content-range"))
    return Response(status, body, headers, length=length)
