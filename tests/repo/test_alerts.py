"""alerts.yaml: promtool runs its rules on series as kubelets export them."""

import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from provider.commands.kubelet_config import ALIAS, PROVIDER_NAME
from tests.support.node import EXAMPLES

RESOURCE = yaml.safe_load((EXAMPLES / "alerts.yaml").read_text())
GROUPS = RESOURCE["spec"]["groups"]
RULES = {rule["alert"]: rule for group in GROUPS for rule in group["rules"]}
FAILING = "OKECredentialProviderFailing"
MANY = "OKECredentialProviderFailingOnManyNodes"
SLOW = "OKECredentialProviderSlow"

# kubernetes 1.36 and 1.28, pkg/credentialprovider/plugin/metrics.go. The buckets are
# prometheus.DefBuckets.
ERRORS = "kubelet_credential_provider_plugin_errors_total"
ERRORS_1_28 = "kubelet_credential_provider_plugin_errors"
DURATION = "kubelet_credential_provider_plugin_duration"
BUCKETS = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf")

Series = dict[str, str]


def labels(node: str, plugin: str) -> str:
    return f'node="{node}",instance="10.0.0.1:10250",plugin_name="{plugin}"'


def errors(values: str, node: str = "a", plugin: str = PROVIDER_NAME, name: str = ERRORS) -> Series:
    """The counter of failed calls, one value per minute."""
    return {f"{name}{{{labels(node, plugin)}}}": values}


def calls(per_minute: Mapping[float, int], node: str = "a", plugin: str = PROVIDER_NAME) -> Series:
    """The histogram of calls: how many per minute take how many seconds."""

    def up_to(seconds: float) -> str:
        return f"0+{sum(n for took, n in per_minute.items() if took <= seconds)}x60"

    series = {f"{DURATION}_count{{{labels(node, plugin)}}}": up_to(float("inf"))}
    for bucket in BUCKETS:
        series[f'{DURATION}_bucket{{{labels(node, plugin)},le="{bucket}"}}'] = up_to(float(bucket))
    return series


def fleet(failing: str, calling: str) -> Series:
    """Nodes whose calls fail, one per minute, among the nodes that call. A letter is a node."""
    series: Series = {}
    for node in failing:
        series |= errors("0+1x60", node)
    for node in calling:
        series |= calls({1: 1}, node)
    return series


def run_promtool(
    folder: Path, series: Series, minute: int, expected: Mapping[str, list[Any]]
) -> subprocess.CompletedProcess[str]:
    """`promtool test rules`: at that minute exactly these alerts fire. Lists hold their labels."""
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": GROUPS}))
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": text} for name, text in series.items()],
                "alert_rule_test": [
                    {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": expected[name]}
                    for name in RULES
                ],
            }
        ],
    }
    (folder / "test.yaml").write_text(json.dumps(test))
    return subprocess.run(
        ["promtool", "test", "rules", "test.yaml"], cwd=folder, capture_output=True, text=True
    )


def alert(name: str, value: str = "", **found: str) -> dict[str, Any]:
    """The alert as promtool expects it, with the texts of its annotations."""
    texts = {}
    for key, text in RULES[name]["annotations"].items():
        text = re.sub(r"{{ \$labels\.(\w+) }}", lambda label: found[label[1]], text)
        texts[key] = re.sub(r"{{ \$value[^}]*}}", value, text)
    return {"exp_labels": {**RULES[name]["labels"], **found}, "exp_annotations": texts}


def on_node(node: str, plugin: str = PROVIDER_NAME) -> dict[str, str]:
    return {"node": node, "instance": "10.0.0.1:10250", "plugin_name": plugin}


def failing(nodes: str, value: str = "15", plugin: str = PROVIDER_NAME) -> dict[str, list[Any]]:
    """The alert about each of these nodes."""
    return {FAILING: [alert(FAILING, value, **on_node(node, plugin)) for node in nodes]}


EACH_MINUTE = errors("0+1x60")
NODES = "abcdefghijklmnopqrstuvwxyz0123"  # 30
CASES: dict[str, tuple[Series, int, dict[str, list[Any]]]] = {
    "one failure per minute": (EACH_MINUTE, 30, failing("a")),
    "the name in kubelet 1.28": (errors("0+1x60", name=ERRORS_1_28), 30, failing("a")),
    "the Go provider's name": (errors("0+1x60", plugin=ALIAS), 30, failing("a", plugin=ALIAS)),
    # The series begins with the first failure. Back-off: 10 s, 20, 40, 80, 160, then every 5 minutes.
    "one image in back-off": (
        errors("_x9 3 4 4 5 5 5 6 6 6 6 6 7 7 7 7 7 8"),
        20,
        failing("a", "4"),
    ),
    "not yet for 5 minutes": (errors("0x10 0+1x30"), 17, {}),
    "two failures, then none": (errors("_x9 1 2x30"), 20, {}),
    "failures long ago": (errors("0 10x59"), 45, {}),
    "another provider": (errors("0+1x60", plugin="ecr-credential-provider"), 30, {}),
    "two of two nodes": (fleet("ab", "ab"), 30, failing("ab")),
    "three of thirty nodes": (fleet("abc", NODES), 30, failing("abc")),
    "three of ten nodes": (
        fleet("abc", NODES[:10]),
        30,
        failing("abc") | {MANY: [alert(MANY, "3")]},
    ),
    "four of thirty nodes": (
        fleet("abcd", NODES),
        30,
        failing("abcd") | {MANY: [alert(MANY, "4")]},
    ),
    "slow": (calls({9: 1}), 30, {SLOW: [alert(SLOW, **on_node("a"))]}),
    "longer than the last bucket": (calls({45: 1}), 30, {SLOW: [alert(SLOW, **on_node("a"))]}),
    "one of eight is slow": (calls({0.3: 7, 9: 1}), 30, {SLOW: [alert(SLOW, **on_node("a"))]}),
    "one of twenty is slow": (calls({0.3: 19, 9: 1}), 30, {}),
    "slow, not yet for 15 minutes": (calls({9: 1}), 10, {}),
    "another provider is slow": (calls({9: 1}, plugin="ecr-credential-provider"), 30, {}),
    "no calls": (errors("0x60") | calls({1: 0}), 30, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_fires_and_does_not_fire(case: str, tmp_path: Path) -> None:
    series, minute, fired = CASES[case]
    done = run_promtool(tmp_path, series, minute, {name: fired.get(name, []) for name in RULES})
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_fails_if_an_alert_is_missing(tmp_path: Path) -> None:
    done = run_promtool(tmp_path, EACH_MINUTE, 30, {name: [] for name in RULES})
    assert done.returncode == 1


def test_each_alert_fires_in_a_case() -> None:
    assert {name for _, _, fired in CASES.values() for name in fired} == RULES.keys()


def test_each_alert_names_a_section_of_the_readme() -> None:
    headings = re.findall(r"^#+ (.*)$", (EXAMPLES / "README.md").read_text(), flags=re.MULTILINE)
    anchors = {heading.lower() for heading in headings}
    for rule in RULES.values():
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert page.endswith("/blob/main/examples/run-on-worker-instance-principal/README.md")
        assert anchor in anchors


def test_it_is_a_prometheus_rule() -> None:
    assert (RESOURCE["apiVersion"], RESOURCE["kind"]) == (
        "monitoring.coreos.com/v1",
        "PrometheusRule",
    )
    assert list(RESOURCE["spec"]) == ["groups"]
