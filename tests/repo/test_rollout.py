"""The rollout for existing clusters in the examples' README: its commands, and the support table's facts."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.cloud.namespace import PATH, REPOSITORY
from tests.support.node import EXAMPLES

README = (EXAMPLES / "README.md").read_text()
SECTION = re.search(r"^## Existing cluster.*?(?=^## )", README, re.MULTILINE | re.DOTALL)
assert SECTION
TEXT = SECTION[0]
BLOCK = TEXT.split("```sh\n")[1].split("```")[0]
POOL = "ocid1.nodepool.oc1.eu-frankfurt-1.cccc"
NODES = {"10.0.0.1": POOL, "10.0.0.2": "another", "10.0.0.3": POOL, "10.0.0.4": None}

# Writes down its arguments and what it reads from a pipe.
STUB = """#!/bin/bash
echo "${0##*/} $*" >>"$CALLS"
case "$*" in
    *"-f -") cat >"$CALLS.applied" ;;
    "get nodes -o json") cat "$CALLS.nodes" ;;
esac
"""


@pytest.fixture
def calls(tmp_path: Path) -> list[str]:
    """The calls of kubectl, when the block is pasted into a shell."""
    key = "oci.oraclecloud.com/node-pool-id"
    items = [
        {"metadata": {"name": name, "annotations": {key: pool} if pool else {}}}
        for name, pool in NODES.items()
    ]
    (tmp_path / "calls.nodes").write_text(json.dumps({"items": items}))
    (tmp_path / "kubectl").write_text(STUB)
    (tmp_path / "kubectl").chmod(0o755)
    env = {
        "PATH": f"{tmp_path}:{PATH}",
        "CALLS": str(tmp_path / "calls"),
        "NODE_POOL": POOL,
        "IMAGE": "fra.ocir.io/ns/repo:tag",
    }
    subprocess.run(["bash", "-euo", "pipefail", "-c", BLOCK], env=env, cwd=EXAMPLES, check=True)
    applied = yaml.safe_load((tmp_path / "calls.applied").read_text())
    (check,) = applied["spec"]["template"]["spec"]["initContainers"]
    assert check["args"] == ["check", env["IMAGE"]]
    return (tmp_path / "calls").read_text().splitlines()


def test_the_commands_run_in_this_order(calls: list[str]) -> None:
    check = "-l app.kubernetes.io/name=oke-credential-provider-check"
    name = "daemonset/oke-credential-provider"
    patch = "kubectl -n kube-system patch daemonset oke-credential-provider"
    enable = "--type=json --patch-file enable.yaml"
    assert calls == [
        "kubectl get nodes -o json",
        "kubectl label node 10.0.0.1 oke-credential-provider=canary",
        "kubectl label node 10.0.0.3 oke-credential-provider=canary",
        "kubectl apply -k ../canary",
        f"kubectl -n kube-system rollout status {name}-canary",
        f"{patch}-canary {enable}",
        f"kubectl -n kube-system rollout status {name}-canary",
        "kubectl apply -f -",
        f"kubectl -n kube-system get pods {check} -o wide",
        "kubectl apply -k .",
        f"kubectl -n kube-system rollout status {name}",
        "kubectl delete -k ../canary",
        f"{patch} {enable}",
        f"kubectl -n kube-system rollout status {name} --timeout=24h",
        f"kubectl -n kube-system rollout restart {name}-check",
    ]


def test_it_fits_on_one_screen_and_begins_with_what_was_not_tested() -> None:
    assert len(BLOCK.splitlines()) <= 24
    assert TEXT.splitlines()[2].startswith("**Not tested on a real cluster.**")


def test_the_names_are_those_of_the_manifests() -> None:
    check = yaml.safe_load((EXAMPLES / "check.yaml").read_text())
    assert f"daemonset/{check['metadata']['name']}\n" in BLOCK
    labels = check["spec"]["template"]["metadata"]["labels"].items()
    (pair,) = [f"{name}={value}" for name, value in labels]
    assert f"-l {pair} " in BLOCK
    assert check["metadata"]["namespace"] == "kube-system"


def row(name: str) -> str:
    (found,) = re.findall(rf"^\| {name} \|.*$", TEXT, re.MULTILINE)
    return str(found)


def test_the_support_table_names_the_systems_that_ci_tests() -> None:
    verify = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "verify.yml").read_text())
    matrix = verify["jobs"]["verify"]["strategy"]["matrix"]
    systems: dict[str, list[str]] = {}
    for image in matrix["image"]:
        system, _, version = image.partition(":")
        systems.setdefault(system, []).append(version)
    assert set(systems) == {"oraclelinux", "ubuntu"}
    assert row("Oracle Linux").split("|")[2].strip() == ", ".join(systems["oraclelinux"])
    assert row("Ubuntu").split("|")[2].split("(")[0].strip() == ", ".join(systems["ubuntu"])
    assert row("architecture").split("|")[2].strip() == "amd64, arm64"


def test_the_support_table_has_the_glibc_floor_of_the_build() -> None:
    (floor,) = re.findall(r"glibc_floor.py --max ([\d.]+)", (REPOSITORY / "Makefile").read_text())
    assert row("glibc").count(floor) == 2
