"""The download of a kubelet, with a stand-in for curl that serves files."""

import platform
import subprocess
from hashlib import sha256
from pathlib import Path

import pytest

from tests.cloud.namespace import PATH, REPOSITORY

SCRIPT = REPOSITORY / "packaging" / "setup" / "kubelet.sh"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
KUBELET = f"v1.36.2/bin/linux/{ARCHITECTURE}/kubelet"
# Serves $SERVED at the one base address.
CURL = """#!/bin/bash
output=/dev/stdout
while [ $# -gt 0 ]; do
    case $1 in
        --output) output=$2; shift ;;
        https://dl.k8s.io/release/*) path=${1#https://dl.k8s.io/release/} ;;
    esac
    shift
done
cat "$SERVED/$path" >"$output"
"""


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """What the server has: version 1.36.2."""
    files = {
        "bin/curl": CURL,
        "served/stable-1.36.txt": "v1.36.2",
        f"served/{KUBELET}": "the kubelet",
        f"served/{KUBELET}.sha256": sha256(b"the kubelet").hexdigest(),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "bin" / "curl").chmod(0o755)
    return tmp_path / "served"


def download(served: Path, version: str = "1.36") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, version, served.parent / "out" / "kubelet"],
        env={"PATH": f"{served.parent}/bin:{PATH}", "SERVED": str(served)},
        capture_output=True,
        text=True,
    )


def test_the_newest_kubelet_of_a_version_is_an_executable(served: Path) -> None:
    done = download(served)
    assert done.returncode == 0, done.stderr
    assert "kubelet v1.36.2" in done.stdout
    [file] = (served.parent / "out").iterdir()
    assert (file.name, file.read_text(), file.stat().st_mode & 0o777) == (
        "kubelet",
        "the kubelet",
        0o755,
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (KUBELET, "another file"),
        (f"{KUBELET}.sha256", ""),
        (f"{KUBELET}.sha256", "<html>not found</html>"),
        ("stable-1.36.txt", "v1.36.2/../../elsewhere"),
        ("stable-1.36.txt", "v1.35.1"),
    ],
)
def test_a_file_that_is_not_the_published_one_is_not_kept(
    served: Path, name: str, text: str
) -> None:
    (served / name).write_text(text)
    assert download(served).returncode == 1
    assert [*(served.parent / "out").glob("*")] == []


def test_only_a_minor_version_is_accepted(served: Path) -> None:
    assert download(served, "1.36/../..").returncode == 2
