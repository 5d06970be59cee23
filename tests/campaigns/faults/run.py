"""Run one cell of the matrix in a cloud and check the results."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from tests.campaigns.faults.matrix import (
    UNREACHABLE,
    Cell,
    Clock,
    Dns,
    Expected,
    expected,
    later_than,
)
from tests.cloud.harness import Cloud
from tests.cloud.model import Fault, Report
from tests.cloud.namespace import REPOSITORY, Completed, hosts_file
from tests.support.kubelet import read_response, request

REGISTRY = "fra.ocir.io"
_NAMES = {"federation": "auth.eu-frankfurt-1.oraclecloud.com", "token": REGISTRY}
# For the start and the end of a process on a busy machine.
_SLACK_SECONDS = 5.0
_LONG_SECONDS = 120  # a response with a longer cache duration is proven
_LINE = re.compile(r"oke-credential-provider: ([a-z-]+): .+ \| .+\n")


@dataclass(frozen=True, slots=True)
class Observed:
    """The results of a cell."""

    calls: tuple[Completed, ...]
    report: Report
    tokens: frozenset[str]  # registry tokens that were issued
    strays: tuple[int, ...]


def observe(cell: Cell, cloud: Cloud, argv: Sequence[str], env: Mapping[str, str]) -> Observed:
    """Run the calls of a cell in the cloud, which is reset before and after."""
    cloud.reset()
    settings = {**env, "DEADLINE_SECONDS": f"{expected(cell).deadline:g}"}
    with _active(cell, cloud):
        calls = together(cloud, argv, cell.calls, settings)
    report = cloud.control.report()
    tokens = frozenset(s.value for s in cloud.control.secrets() if s.kind == "registry token")
    observed = Observed(calls, report, tokens, tuple(cloud.strays()))
    cloud.reset()
    return observed


def together(
    cloud: Cloud, argv: Sequence[str], count: int, env: Mapping[str, str]
) -> tuple[Completed, ...]:
    """Make calls for `count` images in parallel, and wait for all of them."""

    def call(image: str) -> Completed:
        try:
            return cloud.ns.run(argv, stdin=request(image), env=env, timeout=60)
        except subprocess.TimeoutExpired:
            return Completed(tuple(argv), -signal.SIGKILL, b"", b"", 60)

    if count == 1:
        return (call(f"{REGISTRY}/ns/repo"),)
    with ThreadPoolExecutor(count) as pool:
        return tuple(pool.map(call, [f"{REGISTRY}/ns/many/{n}" for n in range(count)]))


@contextmanager
def _active(cell: Cell, cloud: Cloud) -> Iterator[None]:
    match cell.fault:
        case Fault() as fault:
            cloud.control.fault(cell.endpoint, fault)
            yield
        case Clock(ahead):
            cloud.control.clock(ahead)
            yield
        case Dns(kind):
            with resolver(cloud, kind, _NAMES[cell.endpoint]):
                yield


@contextmanager
def resolver(cloud: Cloud, kind: str, name: str) -> Iterator[None]:
    """Resolve `name` at a DNS server that behaves as `kind` says."""
    cloud.ns.hosts(hosts_file().replace(name, ""))
    configuration = cloud.ns.path("/etc/resolv.conf")
    before = configuration.read_text()
    server = None
    if kind != "no server":
        configuration.write_text("nameserver 127.0.0.53\noptions timeout:20 attempts:2\n")
        argv = [sys.executable, "-m", "tests.campaigns.faults.resolver", kind]
        server = cloud.ns.popen(argv, cwd=str(REPOSITORY), stderr=None)
        assert server.stdout is not None
        if server.stdout.readline() != b"ready\n":
            raise RuntimeError("the DNS server did not start")
    try:
        yield
    finally:
        configuration.write_text(before)
        if server is not None and server.stdout is not None:
            server.kill()
            server.wait(10)
            server.stdout.close()


def judge(cell: Cell, observed: Observed) -> list[str]:
    """Return everything that is wrong with a cell."""
    must = expected(cell)
    wrong = []
    for number, call in enumerate(observed.calls):
        found = _judge_call(must, call, observed.tokens, alone=cell.calls == 1)
        wrong += [f"call {number}: {fault}" for fault in found]
    report = observed.report
    tried = report.count(cell.endpoint)
    fewest = must.fewest if _is_seen(cell) else 0
    if not fewest <= tried <= must.most:
        wrong.append(f"{tried} requests, not {fewest} to {must.most}")
    # One preconnected, one per try, one after a kept connection was closed.
    bound = must.most + (8 if cell.group == "imds" else 2)
    if report.connections.get(cell.group, 0) > bound:
        wrong.append(f"{report.connections[cell.group]} connections, not at most {bound}")
    if must.error is not None:
        wrong += [
            f"{later} got a request after {cell.endpoint} had failed"
            for later in later_than(cell.endpoint)
            if report.count(later)
        ]
    if report.connections.get("elsewhere", 0):
        wrong.append("a connection to a host outside of OCI")
    if observed.strays:
        wrong.append(f"{len(observed.strays)} processes remain")
    return wrong


def _is_seen(cell: Cell) -> bool:
    """Report whether the stand-in sees a request, not only a connection."""
    match cell.fault:
        case Dns():
            return False
        case Fault(kind="black_hole" | "reset_accept"):
            return cell.group == "imds"  # the address has several paths: it waits for the request
        case Fault(kind=kind):
            return kind != "refused" and not kind.startswith("tls")
    return True


def _judge_call(
    must: Expected, call: Completed, tokens: frozenset[str], alone: bool
) -> Iterator[str]:
    if call.seconds > must.deadline + _SLACK_SECONDS:
        yield f"took {call.seconds:.1f} s of {must.deadline:g} s"
    stderr = call.stderr.decode(errors="replace")
    if must.error is None:
        if call.returncode or stderr:
            yield f"exit code {call.returncode}, not 0: {stderr}"
        else:
            # Of parallel calls, those that wait get the token without a pull check.
            proven = must.proven if alone else None
            yield from judge_response(call.stdout, tokens, proven)
        return
    if call.returncode != must.error.exit_code:
        yield f"exit code {call.returncode}, not {must.error.exit_code}: {stderr}"
    if call.stdout:
        yield f"stdout is not empty: {call.stdout[:60]!r}"
    line = _LINE.fullmatch(stderr)
    if line is None:
        yield f"stderr is not one line of the program: {stderr!r}"
    elif line[1] != must.error.code:
        yield f"code {line[1]}, not {must.error.code}: {stderr}"
    elif " ".join(must.hint.split()) not in stderr:
        yield f"wrong hint: {stderr}"
    elif must.error in UNREACHABLE and ("(1 try)" in stderr) is not (must.most == 1):
        yield f"wrong number of tries: {stderr}"


def judge_response(stdout: bytes, tokens: frozenset[str], proven: bool | None) -> Iterator[str]:
    """Yield the reasons to refuse a response. `proven` None means either."""
    try:
        answer = read_response(stdout)
    except (ValueError, KeyError) as error:
        yield f"the kubelet would refuse it: {error}"
        return
    if answer.cache_key_type != "Image":
        yield f"cached by {answer.cache_key_type}"
    if list(answer.auth) != [REGISTRY]:
        yield f"credentials for {list(answer.auth)}"
    elif answer.auth[REGISTRY][0] != "BEARER_TOKEN" or answer.password not in tokens:
        yield "credentials that OCIR did not issue"
    if not 0 < answer.cache_seconds < 3600:
        yield f"cached for {answer.cache_seconds} s"
    elif proven is not None and (answer.cache_seconds > _LONG_SECONDS) is not proven:
        yield f"cached for {answer.cache_seconds} s with proven={proven}"
