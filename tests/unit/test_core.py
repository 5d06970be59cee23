"""Pure functions, and their copies of OCI's facts compared with the SDK's."""

import json
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from oci import regions_definitions
from oci.signer import AbstractBaseSigner

from provider.auth import signer as signer_module
from provider.auth.region import RegionInfo
from provider.auth.signer import Signer
from provider.errors import BadRequest, DeadlineExceeded, ProviderError
from provider.image import Image, parse_image
from provider.invocation import Invocation
from provider.log import Log
from provider.net.deadline import Deadline
from provider.net.hostname import parse_host_pattern
from provider.ocir.credentials import PullCheck, PullStatus, RegistryCredentials
from provider.ocir.hosts import (
    REALM_DOMAINS,
    REGIONS,
    claimed_realm_domain,
    is_known_registry,
    is_ocir,
)
from provider.ocir.token import Token
from provider.plugin import credentials
from provider.plugin.request import Request
from provider.plugin.response import NO_CREDENTIALS, Response, cache_seconds
from provider.settings import SETTINGS, Settings, settings_from_environment
from tests.support.kubelet import read_response

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fra.ocir.io/ns/repo", Image("fra.ocir.io", "ns/repo")),
        ("fra.ocir.io:443/ns/repo", Image("fra.ocir.io:443", "ns/repo")),
        ("fra.ocir.io/ns/repo:v1", Image("fra.ocir.io", "ns/repo", "v1")),
        (f"fra.ocir.io/ns/repo@{DIGEST}", Image("fra.ocir.io", "ns/repo", None, DIGEST)),
        (f"h.io:1/a/b/c:t@{DIGEST}", Image("h.io:1", "a/b/c", "t", DIGEST)),
        ("localhost/a", Image("localhost", "a")),
        ("busybox:1", Image("docker.io", "busybox", "1")),
        ("library/busybox", Image("docker.io", "library/busybox")),
        ("h.io/a__b/c--d.e_f", Image("h.io", "a__b/c--d.e_f")),
    ],
)
def test_image_references(text: str, expected: Image) -> None:
    assert parse_image(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "/", "h.io/", "h.io/A", "h.io/a:", "h.io/a@", "h.io/a@sha256:1", "h.io//a", "h.io/a b",
     "u@h.io/a", "h.io/a?x", "h.io/../a", "h.io/a/", "h.io/a\n", "h.io:x/a", "a" * 1100],
)  # fmt: skip
def test_invalid_image_references(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_image(text)


def test_the_manifest_reference_is_the_digest_the_tag_or_latest() -> None:
    assert parse_image(f"h.io/a:t@{DIGEST}").reference == DIGEST
    assert parse_image("h.io/a:t").reference == "t"
    assert parse_image("h.io/a").reference == "latest"


def test_realms_match_the_sdk() -> None:
    assert regions_definitions.REALMS == REALM_DOMAINS


def test_regions_match_the_sdk() -> None:
    assert {
        key: region for regions in REGIONS.values() for key, region in regions.items()
    } == regions_definitions.REGIONS_SHORT_NAMES
    assert {
        region: realm for realm, regions in REGIONS.items() for region in regions.values()
    } == regions_definitions.REGION_REALMS


def test_every_region_of_the_sdk_has_registry_hosts() -> None:
    for region, realm in regions_definitions.REGION_REALMS.items():
        domain = REALM_DOMAINS[realm]
        assert is_ocir(f"ocir.{region}.oci.{domain}", ())
        assert is_known_registry(f"OCIR.{region}.oci.{domain}:443", ())
        assert is_ocir(f"{region}.ocir.io", ())
        assert is_known_registry(f"{region}.ocir.io", ()) == (realm == "oc1")
    for key, region in regions_definitions.REGIONS_SHORT_NAMES.items():
        assert is_ocir(f"{key}.ocir.io", ())
        in_oc1 = regions_definitions.REGION_REALMS[region] == "oc1"
        assert is_known_registry(f"{key}.ocir.io", ()) == in_oc1


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("no1.ocir.io", False),
        ("ocir.no-1.oci.oraclecloud.com", False),
        ("ocir.eu-frankfurt-1.oci.oraclegovcloud.com", False),  # this region is in another realm
        ("ocir.fra.oci.oraclecloud.com", False),  # a region key is valid only in short names
        ("lfi.ocir.io", False),  # only OC1 has short names
        (".ocir.io", False),
        ("registry.my.cloud", True),
        ("registry.my.cloud:8443", False),
        ("ocir.no-1.oci.my.cloud", False),  # a pattern lists no region
    ],
)
def test_known_registries(host: str, known: bool) -> None:
    listed = [parse_host_pattern(text) for text in ("registry.my.cloud", "ocir.*.oci.my.cloud")]
    assert is_known_registry(host, tuple(pattern for pattern in listed if pattern)) is known


@pytest.mark.parametrize(
    "host",
    ["ocir.io", "a.b.ocir.io", "fra.ocir.io.evil.com", "fra-ocir.io", "evilocir.io", "fra.ocir.io.",
     ".ocir.io", "-.ocir.io", "fra.ocir.io:80", "fra.ocir.io:0443", "fra.ocir.io:", "fra.ocir.io:443:443",
     "10.0.0.1", "[::1]", "ocir.x.y.oci.oraclecloud.com", "ocir.x.oci.oraclecloud.com.evil.com",
     "ocir.x.oci.evil-oraclecloud.com", "ocir.x.oci.oraclecloud7.com", "xocir.x.oci.oraclecloud.com",
     "ocir..oci.oraclecloud.com", "fra.ocir.io/", "fra_1.ocir.io", "frä.ocir.io", "", "localhost"],
)  # fmt: skip
def test_hosts_outside_ocir(host: str) -> None:
    assert not is_ocir(host, ())


def test_only_a_name_of_ocirs_form_claims_a_realm_domain() -> None:
    assert claimed_realm_domain("ocir.r-1.oci.acme.cloud") == "acme.cloud"
    assert claimed_realm_domain("ocir.r-1.oci.acme.cloud:8443") is None
    assert claimed_realm_domain("docker.io") is None
    assert claimed_realm_domain("ocir.r-1.oci.localhost") is None


@pytest.mark.parametrize(
    ("pattern", "host", "matches"),
    [
        ("ocir.my.cloud", "ocir.my.cloud", True),
        ("ocir.my.cloud", "OCIR.my.cloud", True),
        ("ocir.*.oci.my.cloud", "ocir.r1.oci.my.cloud", True),
        ("ocir.*.oci.my.cloud", "ocir.a.b.oci.my.cloud", False),
        ("ocir.my.cloud", "x.ocir.my.cloud", False),
        ("ocir.my.cloud", "ocir.my.cloud:8443", False),
        ("ocir.my.cloud:8443", "ocir.my.cloud:8443", True),
        ("localhost:5000", "localhost:5000", True),
        ("127.0.0.1:5000", "127.0.0.1:5000", True),
    ],
)
def test_listed_hosts(pattern: str, host: str, matches: bool) -> None:
    parsed = parse_host_pattern(pattern)
    assert parsed is not None
    assert is_ocir(host, (parsed,)) is matches


@pytest.mark.parametrize("pattern", ["*", "*.com", "a.*", "*.*", "10.0.0.1", "a b", "x*.my.cloud", "h:0", "h.io:99999", "a..b"])  # fmt: skip
def test_patterns_that_match_too_much_or_nothing_are_invalid(pattern: str) -> None:
    assert parse_host_pattern(pattern) is None


# --- the signature -----------------------------------------------------------------------------


class SdkSigner(AbstractBaseSigner):  # type: ignore[misc] # the SDK has no types
    """The SDK's signer for a given key."""

    def __init__(self, signer: Signer, headers: list[str], body_headers: list[str]) -> None:
        self.create_signers(signer.key_id, signer.key, headers, body_headers)


def test_a_get_has_the_sdks_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer("ST$abc", generate_private_key(65537, 2048))
    date = formatdate(usegmt=True)
    monkeypatch.setattr(signer_module, "formatdate", lambda usegmt: date)
    path, host = "/20180419/docker/token", "fra.ocir.io"
    theirs = SimpleNamespace(
        method="GET", url=f"https://{host}{path}", path_url=path, body=None, headers={"date": date}
    )
    SdkSigner(signer, ["date", "(request-target)", "host"], []).do_request_sign(theirs)
    assert signer.sign_get(path, host)["authorization"] == theirs.headers["authorization"]


def test_a_federation_post_has_the_sdks_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer("t/fed-x509/AA:BB", generate_private_key(65537, 2048))
    date = formatdate(usegmt=True)
    monkeypatch.setattr(signer_module, "formatdate", lambda usegmt: date)
    body = json.dumps({"certificate": "x"}).encode()
    theirs = SimpleNamespace(
        method="POST",
        url="https://auth.eu-frankfurt-1.oraclecloud.com/v1/x509",
        path_url="/v1/x509",
        body=body,
        headers={
            "date": date,
            "content-type": "application/json",
            "content-length": str(len(body)),
        },
    )
    covered = ["content-length", "content-type", "x-content-sha256"]
    SdkSigner(signer, ["date", "(request-target)"], covered).do_request_sign(theirs)
    ours = signer.sign_post("/v1/x509", body)
    assert ours["authorization"] == theirs.headers["authorization"]
    assert ours["x-content-sha256"] == theirs.headers["x-content-sha256"]


# --- responses ---------------------------------------------------------------------------------


def test_the_kubelet_can_read_a_response() -> None:
    text = Response("fra.ocir.io", "BEARER_TOKEN", 'quote"backslash\\', 100_000).to_json()
    read = read_response(text.encode())
    assert read.auth == {"fra.ocir.io": ("BEARER_TOKEN", 'quote"backslash\\')}
    assert read.cache_seconds == 100_000
    assert read_response(NO_CREDENTIALS.to_json().encode()).auth == {}


@pytest.mark.parametrize("lifetime", [1, 2, 119, 120, 121, 599, 600, 3600, 86_400, 200_000])
def test_the_cache_duration_never_exceeds_the_tokens_lifetime(lifetime: int) -> None:
    assert 0 <= cache_seconds(lifetime, proven=True) < lifetime
    assert cache_seconds(lifetime, proven=False) <= min(120, cache_seconds(lifetime, proven=True))


def respond(
    monkeypatch: pytest.MonkeyPatch, host: str, settings: Settings, status: PullStatus
) -> Response:
    """Return the response for an image of ``host``, on an instance in the realm acme.cloud."""
    found = RegistryCredentials(Token("t", 3600, "id"), "me", PullCheck(status, "x"))
    region = RegionInfo("r-1", "acme.cloud")
    monkeypatch.setattr(credentials, "get_or_fetch", lambda *_: found)
    monkeypatch.setattr(credentials, "instance_region", lambda _: region)
    invocation = Invocation(settings, {}, Deadline(5), Log("error"))
    return credentials.get_response(Request(Image(host, "ns/repo")), invocation)


@pytest.mark.parametrize("status", PullStatus)
def test_only_a_proven_token_is_cached_long(
    monkeypatch: pytest.MonkeyPatch, status: PullStatus
) -> None:
    response = respond(monkeypatch, "fra.ocir.io", Settings(), status)
    assert response.cache_seconds == (3300 if status is PullStatus.ALLOWED else 120)


def test_other_registries_get_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = PullStatus.ALLOWED
    user = Settings(ocir_auth_method="USER_PRINCIPAL")
    acme = "ocir.r-1.oci.acme.cloud"
    assert respond(monkeypatch, "docker.io", Settings(), allowed) == NO_CREDENTIALS
    # Only an instance has a metadata service that can confirm the realm.
    assert respond(monkeypatch, acme, user, allowed) == NO_CREDENTIALS
    assert respond(monkeypatch, acme, Settings(), allowed).host == acme


# --- settings, errors, deadline ----------------------------------------------------------------


def test_the_go_providers_settings_are_the_defaults() -> None:
    original = {
        "REGISTRY_TOKEN_PATH": "/20180419/docker/token",
        "DEFAULT_USER": "BEARER_TOKEN",
        "REGISTRY_PROTOCOL": "https",
        "OCIR_AUTH_METHOD": "INSTANCE_PRINCIPAL",
        "TOKEN_VALIDATION": "Enabled",
        "VERIFY_TOKEN_AUTH": "false",
    }
    assert settings_from_environment(original) == Settings() == settings_from_environment({})


def test_every_setting_has_a_field_a_variable_and_a_key() -> None:
    assert [key.field for key in SETTINGS] == list(Settings._fields)
    for names in ([k.env for k in SETTINGS], [k.yaml for k in SETTINGS]):
        assert len(set(names)) == len(SETTINGS)


def test_every_error_has_its_own_code_and_exit_code() -> None:
    kinds = ProviderError.__subclasses__()
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert len({kind.exit_code for kind in kinds}) == len(kinds)
    assert all(3 <= kind.exit_code < 126 for kind in kinds)


def test_an_error_is_one_printable_line() -> None:
    assert BadRequest("a\nb\r\n\x1b[2J", "c\td\u202e").line().isprintable()


def test_a_part_of_a_deadline_ends_with_it() -> None:
    clock = iter([0.0, 1.0, 1.0, 9.0, 10.0]).__next__
    deadline = Deadline(10, clock)
    part = deadline.within(60, "x")
    assert part.seconds == 9
    assert part.left("x") == 1
    with pytest.raises(DeadlineExceeded, match="while reading"):
        deadline.left("reading")
