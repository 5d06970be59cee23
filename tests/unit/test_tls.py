"""CA certificates for TLS: the node's directory of CA certificates and its bundle."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.harness import Cloud
from tests.cloud.model import Fault, FaultKind
from tests.conftest import Program
from tests.support import kubelet

_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


@pytest.fixture
def own_cloud() -> Iterator[Cloud]:
    """A cloud of its own, because the test changes its CA certificates."""
    with Cloud() as cloud:
        yield cloud


def _file_in_directory(cloud: Cloud) -> Path:
    command = ["openssl", "x509", "-noout", "-subject_hash"]
    name = subprocess.run(
        command, input=cloud.ca, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    return cloud.ns.path(f"/etc/ssl/certs/{name}.0")


def _remove_from_bundle(cloud: Cloud) -> None:
    bundle = cloud.ns.path(_BUNDLE)
    bundle.write_text(bundle.read_text().replace(cloud.ca, ""))


def _password(program: Program, cloud: Cloud) -> str:
    run = program.run(cloud, stdin=kubelet.request("fra.ocir.io/ns/repo")).check()
    return kubelet.read_response(run.stdout).password


def test_a_root_only_in_the_directory_is_trusted(program: Program, own_cloud: Cloud) -> None:
    _remove_from_bundle(own_cloud)
    assert _password(program, own_cloud)


def test_a_root_only_in_the_bundle_is_trusted(program: Program, own_cloud: Cloud) -> None:
    _file_in_directory(own_cloud).unlink()
    assert _password(program, own_cloud)


def test_a_root_in_neither_is_not_trusted(program: Program, own_cloud: Cloud) -> None:
    _remove_from_bundle(own_cloud)
    _file_in_directory(own_cloud).unlink()
    run = program.run(own_cloud, stdin=kubelet.request("fra.ocir.io/ns/repo"))
    assert run.returncode == 51
    assert b"tls-untrusted" in run.stderr


def test_a_configured_bundle_replaces_the_nodes_certificates(
    program: Program, own_cloud: Cloud
) -> None:
    own_cloud.ns.path("/run/chosen.pem").write_text(own_cloud.ca)
    trusted = {"SSL_CERT_FILE": "/run/chosen.pem"}
    request = kubelet.request("fra.ocir.io/ns/repo")
    program.run(own_cloud, stdin=request, env=trusted).check()
    _remove_from_bundle(own_cloud)
    untrusted = {"SSL_CERT_FILE": _BUNDLE, "TOKEN_CACHE": "disabled"}
    run = program.run(own_cloud, stdin=request, env=untrusted)
    assert run.returncode == 51


@pytest.mark.parametrize(
    ("kind", "code", "connections"),
    [
        ("tls_expired", 51, 1),
        ("tls_wrong_name", 51, 1),
        ("tls_unknown_ca", 51, 2),  # with the node's directory, then with its bundle
        ("tls_old", 30, 1),
        ("reset_accept", 30, 4),
    ],
)
def test_tls_is_retried_only_after_a_lost_connection(
    program: Program, cloud: Cloud, kind: FaultKind, code: int, connections: int
) -> None:
    cloud.control.fault("federation", Fault(kind))
    run = program.run(cloud, stdin=kubelet.request("fra.ocir.io/ns/repo"))
    assert run.returncode == code
    report = cloud.control.report()
    assert report.connections["federation"] == connections
    assert report.count("federation") == 0  # nothing is sent before the certificate is verified
