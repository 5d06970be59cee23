"""Nothing in the README contradicts the program."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support.readme import README, parts, parts_of

REPOSITORY = README.parent


@pytest.mark.parametrize("name", sorted(parts()))
def test_a_table_of_the_readme_is_what_the_program_says(name: str) -> None:
    assert parts_of(README.read_text())[name] == parts()[name]


# As CRI-O and containerd put them into a pod's events, seen in published logs of OKE nodes.
SEEN = (
    "initializing source docker://fra.ocir.io/ns/repo:tag: reading manifest tag in fra.ocir.io/ns/repo:",
    "unable to pull image or OCI artifact:",
    "denied: Anonymous users are only allowed read access on public repos",
    "denied: User UserId(ocid1.instance...) not authorized",
    "pulling from host phx.ocir.io failed with status code [manifests v1]: 403 Forbidden",
    "failed to authorize: failed to fetch anonymous token",
    "FREE_TIER_NOT_SUPPORTED",
    "unknown: Unauthorized",
)


@pytest.mark.parametrize("text", SEEN)
def test_troubleshooting_has_the_texts_that_people_see(text: str) -> None:
    section = README.read_text().partition("## When pulls fail")[2].partition("\n## ")[0]
    assert f"{text}`" in section


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(document: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", (REPOSITORY / document).read_text()):
        assert (REPOSITORY / target).exists(), target


def test_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (REPOSITORY / "Makefile").read_text(), re.M))
    for document in ("README.md", "CONTRIBUTING.md"):
        named = re.findall(r"(?:`|^)make ([a-z0-9-]+)", (REPOSITORY / document).read_text(), re.M)
        assert set(named) <= targets


def test_every_module_is_in_the_house() -> None:
    house = (REPOSITORY / "CONTRIBUTING.md").read_text()
    listed = set(re.findall(r"`([a-z_]+)/?`", house))
    files = subprocess.run(
        ["git", "ls-files", "provider"], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout.split()
    for path in map(Path, files):
        name = path.parts[1] if len(path.parts) > 2 else path.stem
        assert name == "__init__" or name in listed, path
