"""OKE's workload identity endpoint: it exchanges a service-account token for a session token."""

import base64
import binascii
import json
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cloud import jwt, signatures
from tests.cloud.http1 import Request, Response, json_response, refuse
from tests.cloud.iam import Principal
from tests.cloud.model import Place, Workload
from tests.cloud.signatures import Refused
from tests.cloud.state import State

PATH = "/resourcePrincipalSessionTokens"
PORT = 12250


def answer(state: State, place: Place, request: Request) -> Response:
    if request.target != PATH:
        return refuse(404, "NotFound", f"nothing at {request.path[:80]!r}")
    if request.method != "POST":
        return refuse(405, "MethodNotAllowed", f"{request.method} is not POST")
    try:
        workload = verify(state, place, request)
    except Refused as refusal:
        return refuse(401, "NotAuthenticated", str(refusal))
    if not state.cluster.enhanced:
        return refuse(403, "NotAuthorized", "the cluster is a basic one")
    try:
        key = _read_body(request)
    except Refused as refusal:
        return refuse(400, "InvalidParameter", str(refusal))
    ocid = f"{workload.cluster}/{workload.namespace}/{workload.service_account}"
    tenancy, realm = state.imds.tenancy, state.imds.region.realm
    principal = Principal(ocid, tenancy, None, realm, state.now(), workload)
    token = json.dumps({"token": f"ST${state.security_token(principal, key)}"})
    # A JSON string: the SDK for Go unquotes it, the SDK for Python ignores characters outside base64.
    return json_response(200, base64.b64encode(token.encode()).decode())


def verify(state: State, place: Place, request: Request) -> Workload:
    """Return the account of the request's token. Raises Refused with the failed check."""
    hosts = [f"{host}:{PORT}" for host in (place.address, *place.hosts)]
    signatures.check_host(request, hosts)
    scheme, _, token = (request.get("authorization") or "").partition(" ")
    if scheme != "Bearer":
        raise Refused("no bearer token")
    try:
        claims = jwt.verify(state.cluster_key.public_key(), token)
    except jwt.InvalidToken as error:
        raise Refused(str(error)) from error
    if not claims["nbf"] - 60 <= state.now() <= claims["exp"]:
        raise Refused("the service account's token is not valid now")
    if state.cluster.audience not in claims["aud"]:
        raise Refused(f"the token is not for {state.cluster.audience}")
    bound: dict[str, Any] = claims["kubernetes.io"]
    return Workload(state.cluster.ocid, bound["namespace"], bound["serviceaccount"]["name"])


def _read_body(request: Request) -> rsa.RSAPublicKey:
    if request.get("content-type") != "application/json":
        raise Refused("the body is not application/json")
    try:
        body = json.loads(request.body)
        if set(body) != {"podKey"}:
            raise Refused("the body must have podKey and nothing else")
        der = base64.b64decode(body["podKey"], validate=True)
        key = serialization.load_der_public_key(der)
    except (ValueError, TypeError, binascii.Error) as error:
        raise Refused("podKey is not a public key in PEM without armor and line breaks") from error
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < 2048:
        raise Refused("podKey is not an RSA key of 2048 bits")
    return key
