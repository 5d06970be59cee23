"""The figures as Markdown, and their limits."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.campaigns.bench.hour import IMAGES, Hour
from tests.campaigns.bench.measure import (
    LATENCIES,
    NAIVE,
    STORM_LATENCY,
    STORMS,
    Asked,
    Figures,
    Single,
)
from tests.conftest import INSTALLED, ONE_FILE

# A large cluster after a restart.
_NODES = 10_000
_IMAGES = 30
_WITHIN_SECONDS = 60
# The most that a cold call may take, of the naive program's time, by milliseconds per answer.
_COLD = {0: 0.22, 20: 0.29, 40: 0.37}


@dataclass(frozen=True, slots=True)
class Limit:
    """A figure and its limit."""

    what: str
    value: float
    most: float
    unit: str = ""

    @property
    def holds(self) -> bool:
        return self.value <= self.most


def limits(figures: Figures) -> list[Limit]:
    """Return the limits. Times are ratios within one run: to the naive program, or to a cold call."""
    naive = figures.cold[NAIVE, STORM_LATENCY].seconds
    cold = figures.cold[INSTALLED, STORM_LATENCY]
    warm = figures.warm[INSTALLED, STORM_LATENCY]
    found = [
        *(
            Limit(f"cold, {latency} ms per answer, of naive", _of_naive(figures, latency), most)
            for latency, most in _COLD.items()
        ),
        Limit("warm, of naive", warm.seconds / naive, 0.035),
        Limit("cold, peak memory", cold.peak_mb, 45, " MB"),
        Limit("warm, peak memory", warm.peak_mb, 20, " MB"),
    ]
    if (ONE_FILE, STORM_LATENCY) in figures.warm:
        one_file = _of_naive(figures, STORM_LATENCY, ONE_FILE)
        found.append(Limit("cold as one file, of naive", one_file, 0.42))
        one_file = figures.warm[ONE_FILE, STORM_LATENCY].seconds / naive
        found.append(Limit("warm as one file, of naive", one_file, 0.10))
    ours = [storm.asked for (form, _), storm in figures.storms.items() if form != NAIVE]
    found.append(Limit("exchanges in any storm of any form", max(a.tokens for a in ours), 1))
    found.append(Limit("IMDS requests in any storm of any form", max(a.imds for a in ours), 5))
    for at_once, most in ((30, 2.5), (100, 5)):
        last = figures.in_cold_calls[INSTALLED, at_once]
        found.append(Limit(f"storm of {at_once}: last answer, in cold calls", last, most))
    return found


def _of_naive(figures: Figures, latency: int, form: str = INSTALLED) -> float:
    return figures.cold[form, latency].seconds / figures.cold[NAIVE, latency].seconds


def limits_table(found: Sequence[Limit]) -> str:
    rows = (
        (
            limit.what,
            f"{limit.value:.3g}{limit.unit}",
            f"{limit.most:g}{limit.unit}",
            _yes(limit.holds),
        )
        for limit in found
    )
    return _table(("limit", "measured", "at most", "holds"), rows)


def with_figures(readme: str, figures: Figures, megabytes: Mapping[str, float]) -> str:
    """Return README.md with this run in its table. ``megabytes`` is the size of each form.

    Raises ValueError if there is no such table.
    """
    ours = (INSTALLED, ONE_FILE)
    naive = f"{figures.cold[NAIVE, STORM_LATENCY].seconds * 1000:.0f} ms"

    def milliseconds(table: Mapping[tuple[str, int], Single]) -> list[str]:
        return [f"{table[form, STORM_LATENCY].seconds * 1000:.0f} ms" for form in ours]

    storms = (figures.storms[form, 30] for form in (*ours, NAIVE))
    rows = (
        ("one cold call", *milliseconds(figures.cold), naive),
        ("one warm call", *milliseconds(figures.warm), f"{naive} (no cache)"),
        (
            "30 calls at once: last response, registry tokens requested",
            *(f"{storm.seconds:.2f} s, {storm.asked.tokens}" for storm in storms),
        ),
        ("size on disk", *(f"{megabytes[form]:.1f} MB" for form in ours), "500 MB for the SDK"),
    )
    table = (
        _table(("", INSTALLED, "downloaded file", NAIVE), rows)
        .replace("|  |", "| |")
        .replace(" --- ", "---")
    )
    head = table.partition("\n")[0]
    written, found = re.subn(rf"^{re.escape(head)}\n(\|.*\n)+", table + "\n", readme, flags=re.M)
    if found != 1:
        raise ValueError(f"README.md has no table with the columns {head}")
    return written


def markdown(figures: Figures) -> str:
    """Return all tables."""
    return "\n\n".join(
        (
            f"{_machine()}. {_rounds(figures)}",
            f"One call, in milliseconds, if each answer of OCI takes {_list(LATENCIES)} ms:",
            _singles(figures),
            f"Parallel calls for different images, {STORM_LATENCY} ms per answer:",
            _storms(figures),
            f"Requests of {_NODES:,} nodes that boot within a minute with {_IMAGES} images each:",
            _cluster({form: figures.storms[form, _IMAGES].asked for form in figures.forms}),
        )
    )


def hours(found: Sequence[Hour]) -> str:
    """Return the table of one node's requests in an hour."""
    rows = (
        (
            hour.name,
            *(f"{value:,.0f}" for value in (hour.calls, hour.imds, hour.tokens, hour.manifests)),
            f"{hour.cpu_seconds:.1f}",
            f"{hour.cpu_seconds / 36:.2f}",
        )
        for hour in found
    )
    header = (
        f"{IMAGES} images",
        *("calls", "IMDS", "tokens", "manifests"),
        *("CPU s", "% of a core"),
    )
    return _table(header, rows)


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Linux {platform.release()}"


def _rounds(figures: Figures) -> str:
    runs = next(iter(figures.cold.values())).runs
    return f"Medians of {runs} calls; the programs take turns"


def _singles(figures: Figures) -> str:
    def milliseconds(kind: str, form: str) -> list[str]:
        table = figures.cold if kind == "cold" else figures.warm
        return [f"{table[form, latency].seconds * 1000:.0f}" for latency in LATENCIES]

    rows = []
    for kind, table in (("cold", figures.cold), ("warm", figures.warm)):
        for form in figures.forms:
            if (form, STORM_LATENCY) not in table:
                continue
            single = table[form, STORM_LATENCY]
            ratio = single.seconds / figures.cold[NAIVE, STORM_LATENCY].seconds
            rows.append(
                (
                    form,
                    kind,
                    *milliseconds(kind, form),
                    f"{ratio:.3f}",
                    f"{single.cpu_seconds * 1000:.0f}",
                    f"{single.peak_mb:.0f}",
                )
            )
    latencies = (f"{latency} ms" for latency in LATENCIES)
    return _table(
        ("program", "call", *latencies, f"of naive at {STORM_LATENCY} ms", "CPU ms", "peak MB"),
        rows,
    )


def _storms(figures: Figures) -> str:
    rows = []
    for at_once in STORMS:
        for form in figures.forms:
            storm = figures.storms[form, at_once]
            asked = storm.asked
            counts = (asked.tokens, asked.imds, asked.federation, asked.manifests)
            rows.append(
                (
                    str(at_once),
                    form,
                    f"{storm.seconds:.2f}",
                    f"{storm.cpu_seconds:.2f}",
                    *(str(count) for count in counts),
                )
            )
    return _table(
        ("calls", "program", "last answer s", "CPU s", "tokens", "IMDS", "federation", "manifests"),
        rows,
    )


def _cluster(storms: Mapping[str, Asked]) -> str:
    rows = []
    for form, asked in storms.items():
        ocir = asked.tokens + asked.manifests
        rates = (f"{count * _NODES / _WITHIN_SECONDS:,.0f}" for count in (asked.federation, ocir))
        rows.append((form, str(asked.imds), *rates, f"{asked.tokens * _NODES:,}"))
    header = ("program", "IMDS, per node", "federation, per s", "OCIR, per s", "tokens, total")
    return _table(header, rows)


def _list(values: Iterable[int]) -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} and {last}"


def _yes(holds: bool) -> str:
    return "yes" if holds else "**no**"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
