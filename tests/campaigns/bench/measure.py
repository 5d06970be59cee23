"""The calls and their results. Everything runs inside a test cloud."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import Self

from tests.campaigns.bench import naive, spawner
from tests.cloud.control import Control
from tests.cloud.harness import STORES
from tests.cloud.namespace import PATH
from tests.conftest import Program, forms
from tests.support import kubelet

# The names of the forms.
NAIVE = "naive"
LATENCIES = (0, 20, 40)  # milliseconds per answer
STORMS = (1, 10, 30, 100)
STORM_LATENCY = 40
_HOST = "fra.ocir.io"
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, slots=True)
class Call:
    """One call that returned credentials."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests per endpoint. `tokens` is the number of exchanges."""

    imds: int
    federation: int
    tokens: int
    manifests: int


@dataclass(frozen=True, slots=True)
class Storm:
    """Calls for different images, started at the same time."""

    seconds: float  # to the last answer
    cpu_seconds: float  # of all calls together
    peak_mb: float  # of the largest call
    asked: Asked


@dataclass(frozen=True, slots=True)
class Single:
    """Medians of single calls."""

    seconds: float
    cpu_seconds: float
    peak_mb: float
    runs: int

    @classmethod
    def of(cls, calls: Sequence[Call]) -> Self:
        return cls(
            median(call.seconds for call in calls),
            median(call.cpu_seconds for call in calls),
            median(call.peak_mb for call in calls),
            len(calls),
        )


@dataclass(frozen=True, slots=True)
class Figures:
    """The complete run. Keys are (form, milliseconds per answer) and (form, parallel calls).

    `in_cold_calls` is the time of a storm divided by the time of the cold calls just before and after it.
    """

    forms: tuple[str, ...]
    cold: Mapping[tuple[str, int], Single]
    warm: Mapping[tuple[str, int], Single]
    storms: Mapping[tuple[str, int], Storm]
    in_cold_calls: Mapping[tuple[str, int], float]


class Bench:
    """A cloud, the forms of the program in it, and the naive program."""

    def __init__(self, control: Control) -> None:
        self.control = control
        argv = (sys.executable, naive.__file__)
        self.programs = [*forms(), Program(NAIVE, argv, {"REQUESTS_CA_BUNDLE": _BUNDLE})]
        self._spawner = subprocess.Popen(
            [sys.executable, "-I", "-S", spawner.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        assert self._spawner.stdin is not None and self._spawner.stdout is not None
        self._spawner.stdin.close()
        self._spawner.stdout.close()
        self._spawner.wait(10)

    def figures(self, rounds: int, storms: int) -> Figures:
        """Measure everything. The forms take turns, so that a busy machine slows all of them equally."""
        cold: dict[tuple[str, int], list[Call]] = {}
        warm: dict[tuple[str, int], list[Call]] = {}
        storms_by_key: dict[tuple[str, int], list[Storm]] = {}
        ratios: dict[tuple[str, int], list[float]] = {}
        for program in self._once_each(1):  # fills the page cache, writes .pyc files
            self._cold(program)
        for latency in LATENCIES:
            self.control.latency(latency)
            for program in self._once_each(rounds):
                key = program.name, latency
                cold.setdefault(key, []).append(self._cold(program))
                if program.name != NAIVE:
                    warm.setdefault(key, []).append(*self.calls(program, ["ns/repo"]))
        self.control.latency(STORM_LATENCY)
        for turn in range(storms):
            for at_once, program in product(STORMS, self.programs):
                key = program.name, at_once
                if program.name != NAIVE:
                    before = self._cold(program).seconds
                    storm = self._storm(program, at_once)
                    usual = (before + self._cold(program).seconds) / 2
                    ratios.setdefault(key, []).append(storm.seconds / usual)
                elif turn == 0 or at_once <= 10:  # larger storms use both cores for 10 s or more
                    storm = self._storm(program, at_once)
                else:
                    continue
                storms_by_key.setdefault(key, []).append(storm)
        return Figures(
            tuple(program.name for program in self.programs),
            {key: Single.of(calls) for key, calls in cold.items()},
            {key: Single.of(calls) for key, calls in warm.items()},
            {key: _middle(several) for key, several in storms_by_key.items()},
            {key: median(several) for key, several in ratios.items()},
        )

    def _once_each(self, rounds: int) -> Iterator[Program]:
        for _ in range(rounds):
            yield from self.programs

    def _cold(self, program: Program) -> Call:
        forget()
        (call,) = self.calls(program, ["ns/repo"])
        return call

    def _storm(self, program: Program, at_once: int) -> Storm:
        forget()
        self.control.reset_counters()
        calls = self.calls(program, [f"ns/many/{n}" for n in range(at_once)])
        report = self.control.report()
        return Storm(
            max(call.seconds for call in calls),
            sum(call.cpu_seconds for call in calls),
            max(call.peak_mb for call in calls),
            Asked(
                report.of_group("imds"),
                report.count("federation"),
                report.count("token"),
                report.count("manifest"),
            ),
        )

    def calls(self, program: Program, repositories: Iterable[str]) -> list[Call]:
        """Make kubelet calls for images of `repositories` in parallel.

        Raises RuntimeError if a call returns no credentials.
        """
        requests = [kubelet.request(f"{_HOST}/{name}") for name in repositories]
        return [call for call, _ in self._start(program, requests)]

    def call(self, program: Program, stdin: bytes) -> tuple[Call, bytes]:
        """Make one call. Raises RuntimeError if it returns no credentials."""
        (made,) = self._start(program, [stdin])
        return made

    def _start(self, program: Program, requests: Sequence[bytes]) -> list[tuple[Call, bytes]]:
        assert self._spawner.stdin is not None and self._spawner.stdout is not None
        env = {"PATH": PATH, **program.env}
        texts = [request.decode() for request in requests]
        order = {"argv": program.argv, "env": env, "requests": texts}
        self._spawner.stdin.write(json.dumps(order) + "\n")
        self._spawner.stdin.flush()
        calls = []
        for call in json.loads(self._spawner.stdout.readline()):
            stdout = call["stdout"].encode()
            if call["exit"] != 0 or not kubelet.read_response(stdout).password:
                raise RuntimeError(f"{program.name} returned no credentials: {call['stderr']}")
            made = Call(call["seconds"], call["cpu_seconds"], call["peak_mb"])
            calls.append((made, stdout))
        return calls


def cloud_control() -> Control:
    """Return the control of the cloud around this process. Raises RuntimeError outside of a cloud."""
    path = os.environ.get("CLOUD_CONTROL")
    if not path:
        raise RuntimeError("run inside a test cloud: python -m tests.cloud -- ... (or: make bench)")
    return Control(Path(path))


def forget() -> None:
    """Clear the credential cache."""
    for store in STORES:
        shutil.rmtree(store, ignore_errors=True)


def _middle(storms: Sequence[Storm]) -> Storm:
    """Return the storm of median time, with the highest numbers of requests."""
    middle = sorted(storms, key=lambda storm: storm.seconds)[len(storms) // 2]
    asked = max((storm.asked for storm in storms), key=lambda a: (a.tokens, a.imds, a.manifests))
    return Storm(middle.seconds, middle.cpu_seconds, middle.peak_mb, asked)
