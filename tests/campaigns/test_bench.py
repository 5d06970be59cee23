"""The report of `make bench`."""

import dataclasses
import re
from xml.etree import ElementTree

import pytest

from tests.campaigns.bench.measure import (
    LATENCIES,
    NAIVE,
    STORM_LATENCY,
    STORMS,
    Asked,
    Figures,
    Single,
    Storm,
)
from tests.campaigns.bench.plot import svg
from tests.campaigns.bench.report import limits, markdown, with_figures
from tests.conftest import INSTALLED, ONE_FILE
from tests.support import built

OURS = (ONE_FILE, INSTALLED)


def figures() -> Figures:
    """Return a run that keeps all limits."""
    forms = (*OURS, NAIVE)
    cold = {(form, at): Single(0.2, 0.1, 34, 15) for form in OURS for at in LATENCIES}
    cold |= {(NAIVE, at): Single(1.0, 0.5, 56, 15) for at in LATENCIES}
    warm = {(form, at): Single(0.02, 0.02, 12, 15) for form in OURS for at in LATENCIES}
    storms = {(form, n): Storm(0.4, 0.8, 34, Asked(4, 1, 1, 1)) for form in OURS for n in STORMS}
    storms |= {(NAIVE, n): Storm(0.8 * n, 0.5 * n, 56, Asked(7 * n, n, n, n)) for n in STORMS}
    return Figures(forms, cold, warm, storms, {(form, n): 2.0 for form in OURS for n in STORMS})


def exceeded(run: Figures) -> list[str]:
    return [limit.what for limit in limits(run) if not limit.holds]


def test_a_good_run_keeps_all_limits() -> None:
    assert exceeded(figures()) == []


@pytest.mark.parametrize(("at", "seconds"), [(0, 0.23), (20, 0.30), (40, 0.38)])
def test_a_slow_cold_call_exceeds_its_limit(at: int, seconds: float) -> None:
    run = figures()
    slow = {**run.cold, (INSTALLED, at): Single(seconds, 0.1, 34, 15)}
    expected = [f"cold, {at} ms per answer, of naive"]
    assert exceeded(dataclasses.replace(run, cold=slow)) == expected


def test_a_slow_cold_call_as_one_file_exceeds_its_limit() -> None:
    run = figures()
    slow = {**run.cold, (ONE_FILE, STORM_LATENCY): Single(0.43, 0.1, 34, 15)}
    assert exceeded(dataclasses.replace(run, cold=slow)) == ["cold as one file, of naive"]


def test_a_slow_warm_call_exceeds_its_limit() -> None:
    run = figures()
    slow = {**run.warm, (INSTALLED, STORM_LATENCY): Single(0.036, 0.036, 12, 15)}
    assert exceeded(dataclasses.replace(run, warm=slow)) == ["warm, of naive"]


def test_a_second_exchange_in_a_storm_exceeds_its_limit_in_any_form() -> None:
    run = figures()
    twice = {**run.storms, (ONE_FILE, 10): Storm(0.4, 0.8, 34, Asked(5, 2, 2, 2))}
    assert exceeded(dataclasses.replace(run, storms=twice)) == [
        "exchanges in any storm of any form"
    ]


def test_a_storm_is_compared_with_the_cold_calls_around_it() -> None:
    run = figures()
    late = {**run.in_cold_calls, (INSTALLED, 30): 2.6}
    expected = ["storm of 30: last answer, in cold calls"]
    assert exceeded(dataclasses.replace(run, in_cold_calls=late)) == expected


def test_a_clusters_load_is_a_storm_of_thirty_on_every_node() -> None:
    text = markdown(figures())
    assert "| installed | 4 | 167 | 333 | 10,000 |" in text
    assert "| naive | 210 | 5,000 | 10,000 | 300,000 |" in text


def test_the_readme_gets_the_figures_of_the_run_and_keeps_its_form() -> None:
    readme = (built.ROOT / "README.md").read_text()
    written = with_figures(readme, figures(), {INSTALLED: 30.14, ONE_FILE: 30.2})
    assert "| one cold call | 200 ms | 200 ms | 1000 ms |" in written
    assert "| one warm call | 20 ms | 20 ms | 1000 ms (no cache) |" in written
    assert "registry tokens requested | 0.40 s, 1 | 0.40 s, 1 | 24.00 s, 30 |" in written
    assert "| size on disk | 30.1 MB | 30.2 MB | 500 MB for the SDK |" in written
    numbers = re.compile(r"\d+(\.\d+)?")
    assert numbers.sub("0", written) == numbers.sub("0", readme)
    with pytest.raises(ValueError, match="no table"):
        with_figures("", figures(), {INSTALLED: 30.14, ONE_FILE: 30.2})


def test_the_chart_is_well_formed_and_names_every_form_in_both_panels() -> None:
    texts = [element.text for element in ElementTree.fromstring(svg(figures())).iter()]  # noqa: S314 # generated here
    assert all(texts.count(form) == 2 for form in (*OURS, NAIVE))
