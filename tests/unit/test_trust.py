"""Whom TLS trusts: the node's folder of CA certificates and its bundle, either alone."""

from __future__ import annotations

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
    """A cloud whose trust store may be spoilt."""
    with Cloud() as cloud:
        yield cloud


def _in_folder(cloud: Cloud) -> Path:
    command = ["openssl", "x509", "-noout", "-subject_hash"]
    name = subprocess.run(
        command, input=cloud.ca, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()
    return cloud.ns.path(f"/etc/ssl/certs/{name}.0")


def _forget_in_bundle(cloud: Cloud) -> None:
    bundle = cloud.ns.path(_BUNDLE)
    bundle.write_text(bundle.read_text().replace(cloud.ca, ""))


def _password(program: Program, cloud: Cloud) -> str:
    run = program.run(cloud, stdin=kubelet.request("fra.ocir.io/ns/repo")).check()
    return kubelet.read_response(run.stdout).password


def test_a_root_that_only_the_folder_holds_is_trusted(program: Program, own_cloud: Cloud) -> None:
    _forget_in_bundle(own_cloud)
    assert _password(program, own_cloud)


def test_a_root_that_only_the_bundle_holds_is_trusted(program: Program, own_cloud: Cloud) -> None:
    _in_folder(own_cloud).unlink()
    assert _password(program, own_cloud)


def test_a_root_that_neither_holds_is_not_trusted(program: Program, own_cloud: Cloud) -> None:
    _forget_in_bundle(own_cloud)
    _in_folder(own_cloud).unlink()
    run = program.run(own_cloud, stdin=kubelet.request("fra.ocir.io/ns/repo"))
    assert run.returncode == 51
    assert b"tls-untrusted" in run.stderr


def test_a_bundle_of_the_users_choice_stands_alone(program: Program, own_cloud: Cloud) -> None:
    own_cloud.ns.path("/run/chosen.pem").write_text(own_cloud.ca)
    trusted = {"SSL_CERT_FILE": "/run/chosen.pem"}
    request = kubelet.request("fra.ocir.io/ns/repo")
    program.run(own_cloud, stdin=request, env=trusted).check()
    _forget_in_bundle(own_cloud)
    untrusted = {"SSL_CERT_FILE": _BUNDLE, "TOKEN_CACHE": "disabled"}
    run = program.run(own_cloud, stdin=request, env=untrusted)
    assert run.returncode == 51


@pytest.mark.parametrize(
    ("kind", "code", "connections"),
    [
        ("tls_expired", 51, 1),
        ("tls_wrong_name", 51, 1),
        ("tls_unknown_ca", 51, 2),  # by the node's folder, then by its bundle
        ("tls_old", 30, 1),
        ("reset_accept", 30, 4),
    ],
)
def test_tls_is_retried_only_where_a_connection_was_lost(
    program: Program, cloud: Cloud, kind: FaultKind, code: int, connections: int
) -> None:
    cloud.control.fault("federation", Fault(kind))
    run = program.run(cloud, stdin=kubelet.request("fra.ocir.io/ns/repo"))
    assert run.returncode == code
    report = cloud.control.report()
    assert report.connections["federation"] == connections
    assert report.count("federation") == 0  # nothing is sent before TLS holds
