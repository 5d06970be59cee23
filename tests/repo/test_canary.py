"""canary/: what kustomize makes of the overlay, rendered here without kustomize."""

import copy
import os
from typing import Any

import yaml

from tests.support.node import EXAMPLES

OVERLAY = EXAMPLES.parent / "canary"
Json = dict[str, Any]


def load(path: os.PathLike[str]) -> Json:
    with open(path, encoding="utf-8") as file:
        content = yaml.safe_load(file)
    assert isinstance(content, dict)
    return content


KUSTOMIZATION = load(OVERLAY / "kustomization.yaml")
BASE = load(EXAMPLES / "kustomization.yaml")
DAEMONSET = load(EXAMPLES / "daemonset.yaml")


def merged(target: Json, patch: Json) -> Json:
    """A strategic merge patch without lists: mappings are merged, other values are replaced."""
    result = copy.deepcopy(target)
    for key, value in patch.items():
        assert not isinstance(value, list)
        result[key] = merged(result.get(key, {}), value) if isinstance(value, dict) else value
    return result


def rendered() -> Json:
    """The DaemonSet as `kubectl kustomize` prints it."""
    known = {"apiVersion", "kind", "resources", "nameSuffix", "labels", "patches"}
    assert KUSTOMIZATION.keys() == known, "this function renders only these"
    (patch,) = KUSTOMIZATION["patches"]
    assert patch.keys() == {"patch"}
    change = yaml.safe_load(patch["patch"])
    for key in ("apiVersion", "kind"):  # kustomize finds the target by these and the name
        assert change[key] == DAEMONSET[key]
    assert change["metadata"] == {"name": DAEMONSET["metadata"]["name"]}
    daemonset = merged(DAEMONSET, change)
    (labels,) = KUSTOMIZATION["labels"]
    assert labels["includeSelectors"] is True
    spec = daemonset["spec"]
    for labelled in (daemonset["metadata"]["labels"], spec["template"]["metadata"]["labels"]):
        labelled.update(labels["pairs"])
    spec["selector"]["matchLabels"].update(labels["pairs"])
    suffix = KUSTOMIZATION["nameSuffix"]
    daemonset["metadata"].update(
        name=DAEMONSET["metadata"]["name"] + suffix, namespace=BASE["namespace"]
    )
    return daemonset


def test_it_includes_the_daemonset() -> None:
    (resource,) = KUSTOMIZATION["resources"]
    included = (OVERLAY / resource).resolve()
    assert included == EXAMPLES
    # kustomize: "cycle detected: candidate root contains visited root".
    assert included not in OVERLAY.parents


def test_it_runs_only_on_labeled_nodes() -> None:
    pod = rendered()["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {
        "kubernetes.io/os": "linux",
        "oke-credential-provider": "canary",
    }
    readme = (EXAMPLES / "README.md").read_text()
    assert "oke-credential-provider=canary" in readme


def test_no_daemonset_selects_the_others_pods() -> None:
    canary = rendered()
    for one, other in ((canary, DAEMONSET), (DAEMONSET, canary)):
        selector = one["spec"]["selector"]["matchLabels"].items()
        assert selector <= one["spec"]["template"]["metadata"]["labels"].items()
        assert not selector <= other["spec"]["template"]["metadata"]["labels"].items()
    assert canary["metadata"]["name"] != DAEMONSET["metadata"]["name"]


def test_nothing_else_differs() -> None:
    """Containers, permissions and update strategy are those that test_daemonset.py runs."""
    canary = rendered()["spec"]
    original = copy.deepcopy(DAEMONSET["spec"])
    for spec in (canary, original):
        del spec["selector"], spec["template"]["metadata"], spec["template"]["spec"]["nodeSelector"]
    assert canary == original
