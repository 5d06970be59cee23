"""packaging/release/audit.sh finds that Debian has published a newer source of a part of a release.

A stand-in replaces apt, and another one gh.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.built import ARCHITECTURE, PYTHON, ROOT

SCRIPT = ROOT / "packaging" / "release" / "audit.sh"
RELEASED = {"python3.13": "3.13.5-2+deb13u5", "openssl": "3.5.7-1~deb13u2"}
NEWER = {"python3.13": "3.13.5-2+deb13u10", "openssl": "3.5.7-1"}

APT_GET = '#!/bin/sh\n[ "$*" = "update --error-on=any" ] || exit 2\nexit "$UPDATE"\n'
APT_CACHE = """#!/bin/sh
[ "$1 $2" = "showsrc --only-source" ] || exit 2
sed -n "s/^$3 /Version: /p" "$LISTED"
"""
GH = """#!/bin/bash
case "$1 $2" in
    "release list") echo "$TAG" ;;
    "release download") mkdir -p "$5"; cp "$SERVED" "$5/" ;;
esac
"""


def bill(sources: dict[str, str]) -> str:
    """A bill of materials of a binary that was built from these sources, as sbom.py writes it."""
    ancestors = [{"name": name, "version": version} for name, version in sources.items()]
    components: list[dict[str, Any]] = [
        {"name": each["name"], "pedigree": {"ancestors": [each]}} for each in ancestors
    ]
    return json.dumps({"components": [{"name": "click"}, *components]})


def audit(
    folder: Path,
    listed: dict[str, list[str]],
    *files: Path,
    update: int = 0,
    tag: str = "v1.2.0",
) -> tuple[int, str]:
    """The exit code and the output of the script, when Debian lists these versions."""
    for name, text in {"apt-get": APT_GET, "apt-cache": APT_CACHE, "gh": GH}.items():
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    lines = [
        f"{package} {version}\n" for package, versions in listed.items() for version in versions
    ]
    (folder / "listed").write_text("".join(lines))
    (folder / "amd64.cdx.json").write_text(bill(RELEASED))
    done = subprocess.run(
        [SCRIPT, *files],
        env={
            "PATH": f"{folder}/bin:/usr/local/bin:/usr/bin:/bin",
            "DEBIAN_MIRROR": "http://debian.example/debian",
            "LISTED": str(folder / "listed"),
            "SERVED": str(folder / "amd64.cdx.json"),
            "UPDATE": str(update),
            "TAG": tag,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


CURRENT = {name: [version, "0.1-1"] for name, version in RELEASED.items()}


def test_a_release_from_the_newest_sources_passes(tmp_path: Path) -> None:
    code, said = audit(tmp_path, CURRENT)
    assert code == 0
    assert said.splitlines() == [
        f"{name} {version}: the newest" for name, version in sorted(RELEASED.items())
    ]


@pytest.mark.parametrize("package", RELEASED)
def test_a_newer_source_fails_and_says_to_release_again(tmp_path: Path, package: str) -> None:
    listed = {**CURRENT, package: [RELEASED[package], NEWER[package]]}
    code, said = audit(tmp_path, listed)
    assert code == 1
    assert (
        f"{package}: released with {RELEASED[package]}, Debian has {NEWER[package]}: release again"
    ) in said


def test_lists_that_cannot_be_had_fail(tmp_path: Path) -> None:
    code, said = audit(tmp_path, CURRENT, update=100)
    assert (code, said) == (100, "")


def test_a_bill_without_sources_fails(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    file.write_text(bill({}))
    assert audit(tmp_path, CURRENT, file) == (2, "")


def test_before_the_first_release_there_is_nothing_to_compare(tmp_path: Path) -> None:
    assert audit(tmp_path, {}, tag="") == (0, "There is no release yet: nothing to compare.\n")


def test_the_bill_of_the_binary_names_what_it_was_built_from(tmp_path: Path) -> None:
    """The sources that audit.sh reads from the real bill are those of the interpreter that was frozen."""
    binary = ROOT / "dist" / f"oke-credential-provider-for-ocir-linux-{ARCHITECTURE}"
    command = [str(PYTHON), "-B", str(ROOT / "packaging" / "release" / "sbom.py"), str(binary)]
    file = tmp_path / "built.json"
    file.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    sources = (PYTHON.resolve().parents[1] / "versions.txt").read_text().split("\n")
    built = dict(line.split(" ") for line in sources if line)
    code, said = audit(tmp_path, {name: [version] for name, version in built.items()}, file)
    assert code == 0
    assert said.splitlines() == [
        f"{name} {built[name]}: the newest" for name in ("openssl", "python3.13", "zlib")
    ]
