"""`python -m tests.support.rehearsal FOLDER`: what a user does with a release's files, once each.

Verifies the sums; lets a node of its own boot by the release's cloud-init.sh, which downloads from a
stand-in for GitHub, installs, and joins with the kubelet's flags; and runs the binary's whole job in
a test cloud. Says each step; the exit code is 1 at the first that fails.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cloud.harness import Cloud
from tests.e2e.test_cloud_init import CONFIG, FLAGS, FOLDER, MANAGED
from tests.support.node import REPOSITORY, Node, World
from tests.support.userland import Userland, prove, say

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def verify(release: Path) -> dict[str, str]:
    """Check SHA256SUMS as SECURITY.md tells to. Returns name -> sum; AssertionError if one fails."""
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    done = subprocess.run(command, cwd=release, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (release / "SHA256SUMS").read_text().splitlines()
    sums = {name: value for value, name in (line.split("  ", 1) for line in lines)}
    files = {file.name for file in release.iterdir()} - {"SHA256SUMS"}
    assert files == set(sums), f"files without a sum: {files - set(sums)}"
    say(f"SHA256SUMS holds for all {len(sums)} files")
    return sums


def agree(binary: Path) -> None:
    """The binary is the version that source, changelog and cloud-init.sh name."""
    binary.chmod(0o755)  # a download is not executable
    command = [sys.executable, "packaging/release/notes.py", "--binary", str(binary.resolve())]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    say("the binary's version is that of the changelog and of cloud-init.sh")


def look_at_papers(release: Path, binary: str, sums: dict[str, str]) -> None:
    """The bill of materials speaks of these bytes, and the licences are there."""
    content = json.loads((release / f"{binary}.cdx.json").read_text())
    [digest] = content["metadata"]["component"]["hashes"]
    assert digest["content"] == sums[binary]
    licenses = (release / f"{binary}.licenses.txt").read_text()
    for name in ("OpenSSL", "cryptography", "Python"):
        assert name in licenses, f"no licence of {name}"
    say(f"the bill of materials is of this binary and names {len(content['components'])} parts")


def boot(release: Path) -> None:
    """A node runs cloud-init.sh as it was downloaded, and joins with the flags."""
    script = (release / "cloud-init.sh").read_text()
    served = {f"{FOLDER}/{file.name}": file.read_bytes() for file in release.iterdir()}
    with tempfile.TemporaryDirectory(prefix="node-") as folder:
        node = Node(Path(folder) / "node")
        run = node.run(World(MANAGED, served), script)
        calls = node.calls("oke-init")
        expected = [["/var/run/oke-init.sh", "--kubelet-extra-args", FLAGS]]
        assert calls == expected, f"{calls}\n{run.stderr}"
        installed = node.path(CONFIG).read_text()
    assert installed == (release / "credential-provider-config.yaml").read_text()
    say("a node that boots by cloud-init.sh installs it and joins with the kubelet's flags")
    say("the config that it installs is the one that is published")


def main() -> int:
    """Read the command line, be the user."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.rehearsal", description=__doc__)
    parser.add_argument("release", type=Path)
    release: Path = parser.parse_args().release
    binary = f"oke-credential-provider-for-ocir-linux-{ARCHITECTURES[platform.machine()]}"
    print(f"{release}, as a user on {platform.machine()}", flush=True)
    sums = verify(release)
    agree(release / binary)
    look_at_papers(release, binary, sums)
    boot(release)
    with Cloud() as cloud:
        prove(Userland(cloud, Path("/")), release / binary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
