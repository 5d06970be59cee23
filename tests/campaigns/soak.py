"""`python -m tests.campaigns.soak`: thousands of calls, many in parallel, while OCI fails at random.

Each call must end with credentials from OCIR or with a reason. No process, file or memory may accumulate.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

from tests.campaigns.bench import spawner
from tests.cloud.harness import STORES, Cloud
from tests.cloud.model import Fault
from tests.cloud.namespace import PATH
from tests.conftest import Program, programs
from tests.support.kubelet import read_response, request

HOSTS = ("fra.ocir.io", "eu-frankfurt-1.ocir.io", "ocir.eu-frankfurt-1.oci.oraclecloud.com")
REPOSITORIES = 500
RATE = 0.05
# The exit codes that these failures may cause.
_CODES = {20, 21, 30, 40}
_LINE = re.compile(r"oke-credential-provider: [a-z-]+: .+ \| .+\n")
# Tokens with a lifetime of 30 s stay in the cache for 15 s, so exchanges and pull checks go on.
_LIFETIME = 30.0


@dataclass(frozen=True, slots=True)
class Call:
    """One call and its result. `memory` is its peak in MB."""

    host: str
    cached: bool  # with the credential cache
    code: int
    stdout: bytes
    stderr: str
    memory: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Soaked:
    """The results of a soak."""

    calls: Sequence[Call]
    tokens: frozenset[str]
    requests: Mapping[str, int]
    strays: int
    cache: Mapping[str, int]  # bytes by file name
    seconds: float


def soak(cloud: Cloud, program: Program, count: int, at_once: int) -> Soaked:
    """Make the calls. The faults of the cloud stay set."""
    cloud.reset()
    cloud.control.registry_lifetime(_LIFETIME)
    cloud.control.fault("imds", Fault("status", status=429, rate=RATE))
    cloud.control.fault("federation", Fault("reset_headers", rate=RATE))
    cloud.control.fault("token", Fault("status", status=503, rate=RATE))
    cloud.control.fault("manifest", Fault("status", status=500, rate=RATE))
    began = time.monotonic()
    starters: SimpleQueue[_Starter] = SimpleQueue()
    made = [_Starter() for _ in range(at_once)]
    for starter in made:
        starters.put(starter)

    def one(number: int) -> Call:
        starter = starters.get()
        try:
            return starter.call(cloud, program, number)
        finally:
            starters.put(starter)

    with ThreadPoolExecutor(at_once) as pool:
        calls = list(pool.map(one, range(count)))
    for starter in made:
        starter.close()
    seconds = time.monotonic() - began
    report = cloud.control.report()
    cache = cloud.ns.path(STORES[0])
    return Soaked(
        calls,
        frozenset(s.value for s in cloud.control.secrets() if s.kind == "registry token"),
        {endpoint: found.requests for endpoint, found in report.endpoints.items()},
        len(cloud.strays()),
        {path.name: path.stat().st_size for path in cache.iterdir()},
        seconds,
    )


class _Starter:
    """A small process that starts calls: a child's peak memory includes that of its parent."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", spawner.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def call(self, cloud: Cloud, program: Program, number: int) -> Call:
        """Make one call and wait for its end."""
        host, cached = HOSTS[number % len(HOSTS)], number % 20 != 7
        env = {"PATH": PATH, **program.env, **({} if cached else {"TOKEN_CACHE": "disabled"})}
        asked = request(f"{host}/ns/many/{number % REPOSITORIES}").decode()
        order = {"argv": cloud.ns.command(program.argv), "env": env, "requests": [asked]}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        (ended,) = json.loads(self._process.stdout.readline())
        return Call(
            host,
            cached,
            ended["exit"],
            ended["stdout"].encode(),
            ended["stderr"],
            ended["peak_mb"],
            ended["seconds"],
        )

    def close(self) -> None:
        self._process.communicate(timeout=10)


def judge(soaked: Soaked) -> list[str]:
    """Return everything that is wrong."""
    wrong = []
    for number, call in enumerate(soaked.calls):
        if call.code == 0:
            answer = read_response(call.stdout)
            if list(answer.auth) != [call.host] or answer.password not in soaked.tokens:
                wrong.append(f"call {number}: credentials that OCIR did not issue for {call.host}")
            if answer.cache_seconds > _LIFETIME or call.stderr:
                wrong.append(f"call {number}: cached for {answer.cache_seconds} s; {call.stderr}")
        elif call.code not in _CODES or call.stdout or not _LINE.fullmatch(call.stderr):
            wrong.append(f"call {number}: {call.code} {call.stdout[:40]!r} {call.stderr}")
    failed = sum(call.code != 0 for call in soaked.calls)
    if failed > len(soaked.calls) * RATE:
        wrong.append(f"{failed} calls failed in spite of retries")
    if soaked.strays:
        wrong.append(f"{soaked.strays} processes remain")
    # Each host has a token, a failure and a lock.
    if len(soaked.cache) > 3 * len(HOSTS) or any(name.endswith(".new") for name in soaked.cache):
        wrong.append(f"the cache contains {sorted(soaked.cache)}")
    if sum(soaked.cache.values()) > 200 * 1024:
        wrong.append(f"the cache contains {sum(soaked.cache.values())} bytes")
    for cached in (True, False):
        for first, last in zip(*memory(soaked, cached), strict=True):
            if last > first * 1.1:
                wrong.append(f"memory grew from {first:.1f} to {last:.1f} MB (cached={cached})")
    return wrong


def memory(soaked: Soaked, cached: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the lowest and the highest peak in MB, of the first half of the calls and of the second.

    Warm calls have the lowest peak, exchanges the highest. Their numbers depend on the machine's speed.
    """
    peaks = [call.memory for call in soaked.calls if call.cached is cached and call.code == 0]
    half = len(peaks) // 2
    first, last = ((min(part), max(part)) for part in (peaks[:half], peaks[half:]))
    return first, last


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.soak", description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=20)
    options = parser.parse_args()
    failed = False
    for program in programs():
        with Cloud() as cloud:
            soaked = soak(cloud, program, options.calls, options.at_once)
        wrong = judge(soaked)
        failed |= bool(wrong)
        codes = Counter(call.code for call in soaked.calls)
        seconds = sorted(call.seconds for call in soaked.calls)
        print(
            f"{program.name}: {len(soaked.calls)} calls, {options.at_once} in parallel, in {soaked.seconds:.0f} s"
        )
        print(
            f"  {codes[0]} with credentials, {len(soaked.calls) - codes[0]} with a reason {dict(codes)}"
        )
        print(f"  median {seconds[len(seconds) // 2]:.2f} s, slowest {seconds[-1]:.2f} s")
        print(f"  requests: {dict(soaked.requests)}")
        print(
            f"  cache: {len(soaked.cache)} files, {sum(soaked.cache.values())} bytes; {soaked.strays} processes remain"
        )
        for cached in (True, False):
            first, last = memory(soaked, cached)
            print(
                f"  memory {'with' if cached else 'without'} the cache: {first[0]:.1f} to {first[1]:.1f} MB"
                f" in the first half, {last[0]:.1f} to {last[1]:.1f} in the second"
            )
        for fault in wrong:
            print(f"FAILED {fault}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
