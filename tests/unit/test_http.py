"""Slow and unreachable servers, proxies: time limits, error messages, closed responses."""

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from provider.errors import FederationUnreachable, RegistryUnreachable
from provider.net.retry import SLOW_HINT
from tests.cloud.harness import Cloud
from tests.cloud.model import Endpoint, Fault, FaultKind
from tests.cloud.namespace import hosts_file
from tests.conftest import Program, run_together
from tests.support.kubelet import read_response, request

IMAGE = "fra.ocir.io/ns/repo"
PROXY = "http://proxy.example:3128"


# --- slow and unreachable servers --------------------------------------------------------------


def _check_20_seconds(cloud: Cloud, endpoint: Endpoint, programs: Sequence[Program]) -> None:
    cloud.control.fault(endpoint, Fault("latency", delay_ms=20_000))
    for result in run_together(cloud, programs, request(IMAGE)):
        assert read_response(result.check().stdout).password
        assert result.seconds > 20
    assert cloud.control.report().count(endpoint) == 2 * len(programs)


def test_a_server_may_take_20_seconds(cloud: Cloud, all_programs: Sequence[Program]) -> None:
    # One cloud for each endpoint: both waits pass at the same time.
    with Cloud() as other, ThreadPoolExecutor() as pool:
        checks = [
            pool.submit(_check_20_seconds, cloud, "federation", all_programs),
            pool.submit(_check_20_seconds, other, "token", all_programs),
        ]
        for check in checks:
            check.result()


@pytest.mark.parametrize("kind", ["black_hole", "slow_headers", "slow_body"])
@pytest.mark.parametrize("endpoint", ["federation", "token"])
def test_a_slow_server_gets_the_hint_for_slow_servers(
    cloud: Cloud, all_programs: Sequence[Program], endpoint: Endpoint, kind: FaultKind
) -> None:
    cloud.control.fault(endpoint, Fault(kind))
    for result in run_together(cloud, all_programs, request(IMAGE), {"DEADLINE_SECONDS": "3"}):
        assert result.returncode == 60
        line = result.stderr.decode()
        assert line.startswith("oke-credential-provider: deadline: ")
        assert "connected, but no answer" in line
        assert line.endswith(f" | {SLOW_HINT}\n")
        assert result.seconds < 6


@pytest.mark.parametrize("host", ["auth.eu-frankfurt-1.oraclecloud.com", "fra.ocir.io"])
def test_an_unreachable_server_gets_the_hint_for_its_route(
    cloud: Cloud, all_programs: Sequence[Program], host: str
) -> None:
    with packets_dropped(cloud, host):
        results = run_together(cloud, all_programs, request(IMAGE), {"DEADLINE_SECONDS": "3"})
    error = FederationUnreachable if host.startswith("auth") else RegistryUnreachable
    for result in results:
        assert result.returncode == 60
        line = result.stderr.decode()
        assert host in line
        assert "no answer within" in line
        assert line.endswith(f" | {error.default_hint}\n")


def test_dropped_packets_are_reported_before_the_deadline(
    cloud: Cloud, all_programs: Sequence[Program]
) -> None:
    with packets_dropped(cloud, "auth.eu-frankfurt-1.oraclecloud.com"):
        results = run_together(cloud, all_programs, request(IMAGE))
    for result in results:
        assert result.returncode == 30
        assert b"no answer within 5 s (4 tries)" in result.stderr
        assert result.seconds < 30


def test_a_metadata_service_that_hangs_gets_the_hint_for_slow_servers(
    cloud: Cloud, program: Program
) -> None:
    cloud.control.fault("imds.key", Fault("black_hole"))
    result = program.run(cloud, stdin=request(IMAGE))
    assert result.returncode == 20
    assert result.stderr.decode().endswith(f" | {SLOW_HINT}\n")


@contextmanager
def packets_dropped(cloud: Cloud, host: str) -> Iterator[None]:
    """Resolve ``host`` to a port with a full backlog, where the kernel drops new connection requests."""
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
def test_a_failed_proxy_is_named_with_the_server(cloud: Cloud, program: Program) -> None:
    # The stand-in's proxy closes the connection when it cannot reach the server.
    cloud.control.fault("token", Fault("refused"))
    result = program.run(cloud, stdin=request(IMAGE), env={"HTTPS_PROXY": PROXY})
    assert result.returncode == 40
    assert b" CONNECT fra.ocir.io:443 through the proxy proxy.example:3128: " in result.stderr
    assert b"iofra" not in result.stderr


# --- closed responses --------------------------------------------------------------------------

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
def test_each_response_is_closed_before_its_finalizer_runs(
    cloud: Cloud, program: Program, tmp_path: Path, endpoint: Endpoint, kind: FaultKind
) -> None:
    # A finalizer that closes a response whose file is gone writes a traceback (Python 3.13).
    (tmp_path / "sitecustomize.py").write_text(_WATCH)
    cloud.control.fault(endpoint, Fault(kind, status=403))
    env = {"PYTHONPATH": str(tmp_path), "HTTPS_PROXY": PROXY, "DEADLINE_SECONDS": "3"}
    result = program.run(cloud, stdin=request(IMAGE), env=env)
    assert b"left open" not in result.stderr
    assert b"ignored" not in result.stderr
