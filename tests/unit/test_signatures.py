"""The stand-in verifies signatures of an independent client: the signers of the OCI SDK."""

import base64
import datetime as dt
import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.cloud import federation, jwt, ocir, pki
from tests.cloud.http1 import Request
from tests.cloud.iam import Principal
from tests.cloud.model import FRANKFURT, INSTANCE, LANGLEY, PLACES, TENANCY, USER, Imds, Place
from tests.cloud.signatures import Refused, parse
from tests.cloud.state import State

# Imported by name: the SDK has no types.
sdk_requests: Any = importlib.import_module("oci._vendor.requests")
sdk_signer: Any = importlib.import_module("oci.signer")
sdk_federation: Any = importlib.import_module("oci.auth.federation_client")
sdk_retriever: Any = importlib.import_module("oci.auth.certificate_retriever")
sdk_keys: Any = importlib.import_module("oci.auth.session_key_supplier")
sdk_tokens: Any = importlib.import_module("oci.auth.signers.security_token_signer")


def place(group: str, region: object = FRANKFURT) -> Place:
    return next(p for p in PLACES if p.group == group and p.region == region)


REGISTRY, FEDERATION = place("registry"), place("federation")
TOKEN_URL = f"https://fra.ocir.io{ocir.TOKEN_PATH}"
Change = Callable[[Request], Request]


@pytest.fixture(scope="module")
def state() -> State:
    return State.new()


def as_received(prepared: Any) -> Request:
    """Convert a request of the SDK to the form in which the stand-in reads it."""
    headers = tuple((name.lower(), str(value)) for name, value in prepared.headers.items())
    body = prepared.body or b""
    body = body.encode() if isinstance(body, str) else body
    return Request(prepared.method, prepared.path_url, headers, body)


def signed(signer: Any, url: str = TOKEN_URL) -> Request:
    return as_received(sdk_requests.Request("GET", url, auth=signer).prepare())


def header(name: str, value: str | None) -> Change:
    """Replace a header, or remove it."""

    def change(request: Request) -> Request:
        kept = tuple(pair for pair in request.headers if pair[0] != name)
        return replace(request, headers=kept if value is None else (*kept, (name, value)))

    return change


def authorization(old: str, new: str) -> Change:
    def change(request: Request) -> Request:
        text = request.get("authorization") or ""
        assert old in text
        return header("authorization", text.replace(old, new))(request)

    return change


# --- the token endpoint ------------------------------------------------------------------------


def user_signer(state: State) -> Any:
    key = state.new_api_key(USER, None)
    return sdk_signer.Signer(
        key.tenancy, key.user, key.fingerprint, None, private_key_content=key.private_pem
    )


def instance_signer(state: State) -> Any:
    key = pki.rsa_key()
    principal = Principal(INSTANCE, TENANCY, "compartment", "oc1", state.now())
    token = state.security_token(principal, key.public_key())
    return sdk_tokens.SecurityTokenSigner(token, key)


def test_a_request_signed_by_the_sdk_with_an_api_key_is_accepted(state: State) -> None:
    principal = ocir.verify(state, REGISTRY, signed(user_signer(state)))
    assert (principal.ocid, principal.tenancy, principal.compartment) == (USER, TENANCY, None)


def test_a_request_signed_by_the_sdk_with_a_security_token_is_accepted(state: State) -> None:
    url = f"{TOKEN_URL}?service=fra.ocir.io&scope=repository:ns/repo:pull"
    assert ocir.verify(state, REGISTRY, signed(instance_signer(state), url)).ocid == INSTANCE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (header("authorization", None), "no Authorization header"),
        (authorization("Signature ", "Bearer "), "scheme 'Bearer' is not Signature"),
        (authorization('version="1"', 'version="2"'), "version is not 1"),
        (authorization("rsa-sha256", "rsa-sha1"), "algorithm is not rsa-sha256"),
        (authorization('keyId="ST$', 'keyId="ST$ey'), "not one that was issued here"),
        (authorization('keyId="ST$', 'keyId="a/b/'), "no API key with this keyId"),
        (authorization('headers="date ', 'headers="'), "does not cover date"),
        (authorization(" host", ""), "does not cover host"),
        (authorization(" (request-target)", ""), "does not cover (request-target)"),
        (authorization('signature="', 'signature="AAAA'), "does not verify"),
        (authorization('signature="', 'signature="%'), "not base64"),
        (authorization('version="1"', "version=1"), "malformed"),
        (header("date", "Mon, 23 Nov 2026 00:00:00 GMT"), "off the server's clock"),
        (header("date", "yesterday"), "missing or not a date"),
        (header("host", "iad.ocir.io"), "does not verify"),
        (lambda r: replace(r, target=r.target + "?scope=x"), "does not verify"),
        (lambda r: replace(r, method="HEAD"), "does not verify"),
        (lambda r: replace(r, headers=(*r.headers, ("host", "fra.ocir.io"))), "sent 2 times"),
    ],
)
def test_a_tampered_token_request_is_refused_with_the_right_reason(
    state: State, change: Change, reason: str
) -> None:
    with pytest.raises(Refused) as refusal:
        ocir.verify(state, REGISTRY, change(signed(instance_signer(state))))
    assert reason in str(refusal.value)


def test_a_signature_with_another_key_than_the_tokens_is_refused(state: State) -> None:
    signer = instance_signer(state)
    other = sdk_tokens.SecurityTokenSigner(signer.api_key.removeprefix("ST$"), pki.rsa_key())
    with pytest.raises(Refused, match="does not verify"):
        ocir.verify(state, REGISTRY, signed(other))


def test_registry_tokens_and_security_tokens_are_not_interchangeable(state: State) -> None:
    signer = instance_signer(state)
    security = signer.api_key.removeprefix("ST$")
    with pytest.raises(Refused, match="not a registry token"):
        ocir._claims(state, security, "registry")
    claims = {**jwt.verify(state.token_key.public_key(), security), "use": "registry"}
    registry = sdk_tokens.SecurityTokenSigner(
        jwt.sign(state.token_key, claims, "kid"), signer.private_key
    )
    with pytest.raises(Refused, match="not a security token"):
        ocir.verify(state, REGISTRY, signed(registry))


def test_an_expired_security_token_is_refused(state: State) -> None:
    state.security_lifetime_s, before = 100.0, state.security_lifetime_s
    try:
        request = signed(instance_signer(state))
        state.clock_offset_s = 250.0  # within the allowed clock skew
        with pytest.raises(Refused, match="has expired"):
            ocir.verify(state, REGISTRY, request)
    finally:
        state.clock_offset_s, state.security_lifetime_s = 0.0, before


@pytest.mark.parametrize(("offset", "accepted"), [(290, True), (310, False), (-310, False)])
def test_a_date_may_be_five_minutes_off(state: State, offset: float, accepted: bool) -> None:
    request = signed(user_signer(state))
    state.clock_offset_s = offset
    try:
        if accepted:
            assert ocir.verify(state, REGISTRY, request).ocid == USER
        else:
            with pytest.raises(
                Refused, match=r"\-31\d s off" if offset > 0 else r"\+3[01]\d s off"
            ):
                ocir.verify(state, REGISTRY, request)
    finally:
        state.clock_offset_s = 0.0


def test_a_principal_of_one_realm_is_refused_by_a_registry_of_another(state: State) -> None:
    host = place("registry", LANGLEY).hosts[0]
    request = signed(instance_signer(state), f"https://{host}{ocir.TOKEN_PATH}")
    with pytest.raises(Refused, match="another realm"):
        ocir.verify(state, place("registry", LANGLEY), request)


def test_parameters_may_be_spaced_and_ordered_freely_but_not_repeated() -> None:
    text = (
        'Signature  keyId="k", version="1",algorithm="rsa-sha256" , headers="date",signature="AA=="'
    )
    assert parse(text).key_id == "k"
    with pytest.raises(Refused, match="keyId twice"):
        parse(text + ',keyId="other"')


# --- federation --------------------------------------------------------------------------------


class Captured(Exception):
    """Carries the request that the SDK wanted to send."""

    def __init__(self, request: Request) -> None:
        self.request = request


def federation_request(
    state: State, *, key_pem: str | None = None, intermediates: bool = True
) -> Request:
    """Return the request of the SDK's federation client for the stand-in's instance."""
    leaf = sdk_retriever.PEMStringCertificateRetriever(
        certificate_pem=state.identity.cert_pem, private_key_pem=key_pem or state.identity.key_pem
    )
    intermediate = sdk_retriever.PEMStringCertificateRetriever(
        certificate_pem=pki.cert_pem(state.intermediate.certificate)
    )
    client = sdk_federation.X509FederationClient(
        federation_endpoint=f"https://{FEDERATION.hosts[0]}{federation.PATH}",
        tenancy_id=TENANCY,
        session_key_supplier=sdk_keys.SessionKeySupplier(),
        leaf_certificate_retriever=leaf,
        intermediate_certificate_retrievers=[intermediate] if intermediates else [],
    )

    def send(prepared: Any, **_: Any) -> Any:
        raise Captured(as_received(prepared))

    client.requests_session.send = send
    with pytest.raises(Captured) as captured:
        client._get_security_token_from_auth_service()
    # http.client adds the Host header, not requests.
    return header("host", FEDERATION.hosts[0])(captured.value.request)


def body(**changes: object) -> Change:
    """Change the JSON body without signing it again."""

    def change(request: Request) -> Request:
        value = json.loads(request.body) | changes
        return replace(request, body=json.dumps(value).encode())

    return change


def test_the_sdks_federation_request_is_accepted(state: State) -> None:
    principal, key = federation.verify(state, FEDERATION, federation_request(state))
    assert (principal.ocid, principal.tenancy) == (INSTANCE, TENANCY)
    assert key.key_size == 2048


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (header("authorization", None), "no Authorization header"),
        (authorization(" x-content-sha256", ""), "does not cover x-content-sha256"),
        (authorization("date ", ""), "does not cover date"),
        (authorization("x-content-sha256", "x-content-sha256 host"), "must cover exactly"),
        (header("date", "Mon, 23 Nov 2026 00:00:00 GMT"), "off the server's clock"),
        (header("host", "auth.us-ashburn-1.oraclecloud.com"), "is not served here"),
        (body(purpose="x"), "not the hash of the body"),
        (header("content-length", "1"), "not the length of the body"),
        (header("content-type", "text/plain"), "does not verify"),
        (authorization(TENANCY, "ocid1.tenancy.oc1..other"), "keyId is not"),
        (authorization("fed-x509", "fed-x510"), "keyId is not"),
    ],
)
def test_a_tampered_federation_request_is_refused_with_the_right_reason(
    state: State, change: Change, reason: str
) -> None:
    with pytest.raises(Refused) as refusal:
        federation.verify(state, FEDERATION, change(federation_request(state)))
    assert reason in str(refusal.value)


def test_a_federation_request_signed_with_another_key_is_refused(state: State) -> None:
    request = federation_request(state, key_pem=pki.pem_of(pki.rsa_key()))
    with pytest.raises(Refused, match="does not verify"):
        federation.verify(state, FEDERATION, request)


def test_a_leaf_without_its_intermediate_is_refused(state: State) -> None:
    with pytest.raises(Refused, match="do not lead to the instance CA"):
        federation.verify(state, FEDERATION, federation_request(state, intermediates=False))


def test_a_certificate_from_another_ca_is_refused(state: State) -> None:
    stranger = State.new()
    request = federation_request(stranger)
    with pytest.raises(Refused, match="do not lead to the instance CA"):
        federation.verify(state, FEDERATION, request)


def test_a_chain_through_a_certificate_that_is_not_a_ca_is_refused(state: State) -> None:
    key = pki.rsa_key()
    leaf = pki.Authority(state.identity.certificate, state.leaf_key).issue(
        pki.instance_name("ocid1.instance.forged", "c", TENANCY), key
    )
    chain = [state.identity.certificate, state.intermediate.certificate]
    now = leaf.not_valid_before_utc
    with pytest.raises(pki.BadChain, match="not a certificate authority"):
        pki.check_chain(leaf, chain, state.instances.certificate, now)


@pytest.mark.parametrize("days", [-2, 3])
def test_a_certificate_is_refused_outside_its_validity(state: State, days: int) -> None:
    now = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    chain = [state.intermediate.certificate]
    with pytest.raises(pki.BadChain, match="not valid at this time"):
        pki.check_chain(state.identity.certificate, chain, state.instances.certificate, now)


def test_an_instance_of_another_region_is_refused(state: State) -> None:
    request = federation_request(state)
    state.set_imds(Imds(region=LANGLEY))
    try:
        with pytest.raises(Refused, match="another region"):
            federation.verify(state, FEDERATION, request)
    finally:
        state.set_imds(Imds())


def test_a_session_key_that_is_too_small_is_refused(state: State) -> None:
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()
    der = base64.b64encode(pki.spki(small)).decode()
    with pytest.raises(Refused, match="2048 bits"):
        federation._read_body(body(publicKey=der)(federation_request(state)))
