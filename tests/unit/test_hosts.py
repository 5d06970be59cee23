"""Registry hosts: OCI's realms and regions compared with the SDK's, and patterns of hosts."""

import pytest
from oci import regions_definitions

from provider.net.hostname import parse_host_pattern
from provider.ocir.hosts import (
    REALM_DOMAINS,
    REGIONS,
    claimed_realm_domain,
    is_known_registry,
    is_ocir,
)


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
