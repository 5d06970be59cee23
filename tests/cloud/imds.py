"""The instance metadata service, versions 1 and 2, with the header rules of version 2."""

from tests.cloud import pki
from tests.cloud.http1 import Request, Response, json_response, refuse
from tests.cloud.model import Endpoint, Imds
from tests.cloud.state import State

_FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host")


def endpoint_of(path: str) -> Endpoint:
    version, _, rest = path.removeprefix("/opc/").partition("/")
    if not path.startswith("/opc/") or version not in ("v1", "v2"):
        return "imds.unknown"
    match rest.removesuffix("/"):
        case "identity/cert.pem":
            return "imds.cert"
        case "identity/key.pem":
            return "imds.key"
        case "identity/intermediate.pem":
            return "imds.intermediate"
        case "instance/region" | "instance/regionInfo":
            return "imds.region"
        case "instance":
            return "imds.instance"
    return "imds.instance" if rest.startswith("instance/") else "imds.unknown"


def answer(state: State, request: Request) -> Response:
    for name, _ in request.headers:
        if name in _FORWARDED:
            return refuse(403, "NotAuthorized", f"a request with {name} has been forwarded")
    version, _, rest = request.path.removeprefix("/opc/").partition("/")
    if not request.path.startswith("/opc/") or version not in ("v1", "v2"):
        return _not_found(request)
    if version == "v2" and request.get("authorization") != "Bearer Oracle":
        return refuse(401, "NotAuthenticated", "Authorization: Bearer Oracle is missing")
    if request.method != "GET":
        return refuse(405, "MethodNotAllowed", f"{request.method} is not for metadata")
    rest = rest.removesuffix("/")
    match rest:
        case "identity/cert.pem":
            return _text(state.identity.cert_pem)
        case "identity/key.pem":
            return _text(state.identity.key_pem)
        case "identity/intermediate.pem":
            return _text(pki.cert_pem(state.intermediate.certificate))
    value: object = {"instance": _instance(state.imds)}
    for part in rest.split("/"):
        if not isinstance(value, dict) or part not in value:
            return _not_found(request)
        value = value[part]
    return _text(value) if isinstance(value, str) else json_response(200, value)


def too_many() -> Response:
    """Return a 429 with the HTML page that the service sends instead of JSON."""
    page = b"<html><head><title>429 Too Many Requests</title></head><body></body></html>"
    return Response(429, page, content_type="text/html", refusal="too many requests at once")


def _instance(imds: Imds) -> dict[str, object]:
    region = imds.region
    info = {
        "realmKey": region.realm,
        "realmDomainComponent": region.domain,
        "regionKey": region.key,
        "regionIdentifier": region.name,
    }
    return {
        "id": imds.instance,
        "displayName": "oke-node-0",
        "hostname": "oke-node-0",
        "compartmentId": imds.compartment,
        "tenantId": imds.tenancy,
        "region": region.name,
        "canonicalRegionName": region.name,
        "regionInfo": info,
        "shape": "VM.Standard.E5.Flex",
        "state": "Running",
        "metadata": dict(imds.metadata),
    }


def _text(value: str) -> Response:
    return Response(200, value.encode(), content_type="text/plain")


def _not_found(request: Request) -> Response:
    return refuse(404, "NotFound", f"no metadata at {request.path[:80]!r}")
