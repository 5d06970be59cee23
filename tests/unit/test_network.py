"""The way to a server: how long it may take, and what is said when there is no answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from provider.errors import FederationUnreachable, ImdsUnreachable, RegistryUnreachable
from provider.net.retry import SLOW_HINT
from tests.cloud.harness import Cloud
from tests.cloud.model import Endpoint, Fault, FaultKind
from tests.cloud.namespace import hosts_file
from tests.conftest import Program
from tests.support.kubelet import read_response, request

IMAGE = "fra.ocir.io/ns/repo"
PROXY = "http://proxy.example:3128"


# --- a server that takes its time --------------------------------------------------------------


@pytest.mark.every_form
@pytest.mark.parametrize("endpoint", ["federation", "token"])
def test_a_server_that_needs_20_seconds_gets_them(
    cloud: Cloud, program: Program, endpoint: Endpoint
) -> None:
    cloud.control.fault(endpoint, Fault("latency", delay_ms=20_000))
    result = program.run(cloud, stdin=request(IMAGE)).check()
    assert read_response(result.stdout).password
    assert result.seconds > 20
    assert cloud.control.report().count(endpoint) == 2


@pytest.mark.every_form
@pytest.mark.parametrize("kind", ["black_hole", "slow_headers", "slow_body"])
@pytest.mark.parametrize("endpoint", ["federation", "token"])
def test_a_server_that_was_reached_is_not_looked_for_on_the_way(
    cloud: Cloud, program: Program, endpoint: Endpoint, kind: FaultKind
) -> None:
    cloud.control.fault(endpoint, Fault(kind))
    result = program.run(cloud, stdin=request(IMAGE), env={"DEADLINE_SECONDS": "3"})
    assert result.returncode == 60
    line = result.stderr.decode()
    assert line.startswith("oke-credential-provider: deadline: ")
    assert "connected, but no answer" in line
    assert line.endswith(f" | {SLOW_HINT}\n")
    assert result.seconds < 6


@pytest.mark.every_form
@pytest.mark.parametrize("host", ["auth.eu-frankfurt-1.oraclecloud.com", "fra.ocir.io"])
def test_a_server_that_was_not_reached_is_looked_for_on_the_way(
    cloud: Cloud, program: Program, host: str
) -> None:
    with _no_packets_taken(cloud, host):
        result = program.run(cloud, stdin=request(IMAGE), env={"DEADLINE_SECONDS": "3"})
    assert result.returncode == 60
    line = result.stderr.decode()
    assert host in line
    assert "no answer within" in line
    error = FederationUnreachable if host.startswith("auth") else RegistryUnreachable
    assert line.endswith(f" | {error.default_hint}\n")


@pytest.mark.every_form
def test_a_black_hole_is_told_long_before_the_deadline(cloud: Cloud, program: Program) -> None:
    with _no_packets_taken(cloud, "auth.eu-frankfurt-1.oraclecloud.com"):
        result = program.run(cloud, stdin=request(IMAGE))
    assert result.returncode == 30
    assert b"no answer within 5 s (4 tries)" in result.stderr
    assert result.seconds < 30


def test_a_metadata_service_that_was_reached_is_told_so(cloud: Cloud, program: Program) -> None:
    cloud.control.fault("imds.key", Fault("black_hole"))
    result = program.run(cloud, stdin=request(IMAGE))
    assert result.returncode == 20
    assert result.stderr.decode().endswith(f" | {SLOW_HINT}\n")
    cloud.reset()
    cloud.control.fault("imds", Fault("refused"))
    result = program.run(cloud, stdin=request(IMAGE))
    assert result.returncode == 20
    assert result.stderr.decode().endswith(f" | {ImdsUnreachable.default_hint}\n")


@contextmanager
def _no_packets_taken(cloud: Cloud, host: str) -> Iterator[None]:
    """Let ``host`` lead to a port whose queue is full: the kernel drops what asks for a connection."""
    script = (
        "import socket, time\n"
        "server = socket.create_server(('127.0.9.9', 443), backlog=0)\n"
        "full = [socket.socket() for _ in range(4)]\n"
        "for one in full: one.setblocking(False); one.connect_ex(('127.0.9.9', 443))\n"
        "print('full', flush=True); time.sleep(600)\n"
    )
    with cloud.ns.popen([sys.executable, "-c", script], stderr=None) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"full\n"
        lines = [line.replace(f" {host}", "") for line in hosts_file().splitlines()]
        cloud.ns.hosts("\n".join([*lines, f"127.0.9.9 {host}", ""]))
        yield
        process.kill()


# --- a proxy -----------------------------------------------------------------------------------


@pytest.mark.every_form
def test_a_proxy_that_fails_is_named_beside_the_server(cloud: Cloud, program: Program) -> None:
    # The stand-in's proxy closes the connection when it cannot reach the server.
    cloud.control.fault("token", Fault("refused"))
    result = program.run(cloud, stdin=request(IMAGE), env={"HTTPS_PROXY": PROXY})
    assert result.returncode == 40
    assert b" CONNECT fra.ocir.io:443 through the proxy proxy.example:3128: " in result.stderr
    assert b"iofra" not in result.stderr


# --- what is left behind -----------------------------------------------------------------------

_WATCH = """
import gc, http.client, sys
gc.set_threshold(1, 1, 1)
def finalize(response):
    if not response.closed:
        sys.__stderr__.write("a response was left open\\n")
        sys.__stderr__.flush()
http.client.HTTPResponse.__del__ = finalize
"""


@pytest.mark.parametrize(
    ("endpoint", "kind"),
    [
        ("imds.key", "latency"),
        ("imds.key", "reset_headers"),
        ("federation", "cut_body"),
        ("federation", "reset_headers"),
        ("token", "echo_bare"),
        ("token", "refused"),
        ("manifest", "reset_headers"),
        ("manifest", "status"),
    ],
)
def test_every_response_is_closed_before_its_finalizer_does_it(
    cloud: Cloud, program: Program, tmp_path: Path, endpoint: Endpoint, kind: FaultKind
) -> None:
    # A finalizer that closes a response whose file is gone writes a traceback (Python 3.13).
    (tmp_path / "sitecustomize.py").write_text(_WATCH)
    cloud.control.fault(endpoint, Fault(kind, status=403))
    env = {"PYTHONPATH": str(tmp_path), "HTTPS_PROXY": PROXY, "DEADLINE_SECONDS": "6"}
    result = program.run(cloud, stdin=request(IMAGE), env=env)
    assert b"left open" not in result.stderr
    assert b"ignored" not in result.stderr
