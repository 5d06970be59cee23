"""The federation endpoint: it exchanges the certificate of an instance for a security token."""

import base64
import binascii
import datetime as dt
import json

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cloud import pki, signatures
from tests.cloud.http1 import Request, Response, json_response, refuse
from tests.cloud.iam import Principal
from tests.cloud.model import Place
from tests.cloud.signatures import Refused
from tests.cloud.state import State

PATH = "/v1/x509"
_COVERED = ("date", "(request-target)", *signatures.BODY_HEADERS)


def answer(state: State, place: Place, request: Request) -> Response:
    if request.target != PATH:
        return refuse(404, "NotAuthorizedOrNotFound", f"nothing at {request.path[:80]!r}")
    if request.method != "POST":
        return refuse(405, "MethodNotAllowed", f"{request.method} is not POST")
    try:
        principal, session_key = verify(state, place, request)
    except Refused as refusal:
        return refuse(401, "NotAuthenticated", str(refusal))
    return json_response(200, {"token": state.security_token(principal, session_key)})


def verify(state: State, place: Place, request: Request) -> tuple[Principal, rsa.RSAPublicKey]:
    """Return the principal and its session key. Raises Refused with the failed check."""
    signatures.check_host(request, place.hosts)
    signature = signatures.parse(request.get("authorization"))
    signatures.check_covered(signature, _COVERED, exactly=True)
    signatures.check_date(request, state.now())
    signatures.check_body(request)
    leaf, intermediates, session_key = _read_body(request)
    if not isinstance(key := leaf.public_key(), rsa.RSAPublicKey):
        raise Refused("the certificate's key is not RSA")
    signatures.check_signature(request, signature, key)
    try:
        root = state.instances.certificate
        now = dt.datetime.fromtimestamp(state.now(), dt.UTC)
        pki.check_chain(leaf, intermediates, root, now)
    except pki.BadChain as error:
        raise Refused(str(error)) from error
    units = pki.instance_units(leaf)
    tenancy = units.get("tenant", "")
    if signature.key_id != f"{tenancy}/fed-x509/{pki.fingerprint(leaf)}":
        raise Refused("keyId is not <the certificate's tenancy>/fed-x509/<its SHA-1>")
    if place.region != state.imds.region:
        raise Refused("the instance is of another region")
    realm = state.imds.region.realm
    return (
        Principal(units["instance"], tenancy, units["compartment"], realm, state.now()),
        session_key,
    )


def _read_body(
    request: Request,
) -> tuple[x509.Certificate, list[x509.Certificate], rsa.RSAPublicKey]:
    try:
        body = json.loads(request.body)
        leaf = x509.load_der_x509_certificate(_unarmored(body["certificate"]))
        intermediates = [
            x509.load_der_x509_certificate(_unarmored(text))
            for text in body.get("intermediateCertificates", [])
        ]
        key = serialization.load_der_public_key(_unarmored(body["publicKey"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused("the body has no readable certificate and publicKey") from error
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size < 2048:
        raise Refused("publicKey is not an RSA key of 2048 bits or more")
    return leaf, intermediates, key


def _unarmored(text: str) -> bytes:
    """Return the DER of a PEM body without armor and newlines."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64") from error
