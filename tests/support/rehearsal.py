"""`python -m tests.support.rehearsal DIRECTORY`: use a release's files as a user would.

Verifies the checksums. Boots a node with the release's cloud-init.sh, which downloads from a stand-in
for GitHub, installs the provider and joins with the kubelet's flags. Installs on another node with the
release's daemonset.yaml and the image in dist/image. Then tests the binary in a test cloud (userland.py).
Prints each step. Exits with 1 at the first step that fails.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from tests.cloud.harness import Cloud
from tests.e2e.test_cloud_init import CONFIG, FLAGS, FOLDER, MANAGED
from tests.support.image import Image
from tests.support.node import REPOSITORY, Node, World
from tests.support.userland import Userland, prove, say

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def verify(release: Path) -> dict[str, str]:
    """Check SHA256SUMS as in SECURITY.md. Returns name -> sum; raises AssertionError."""
    command = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    done = subprocess.run(command, cwd=release, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (release / "SHA256SUMS").read_text().splitlines()
    sums = {name: value for value, name in (line.split("  ", 1) for line in lines)}
    files = {file.name for file in release.iterdir()} - {"SHA256SUMS"}
    assert files == set(sums), f"files without a checksum: {files - set(sums)}"
    say(f"SHA256SUMS is right for all {len(sums)} files")
    return sums


def check_version(binary: Path) -> None:
    """Check that the binary has the version of the source, the changelog and cloud-init.sh."""
    binary.chmod(0o755)  # a download is not executable
    command = [sys.executable, "packaging/release/notes.py", "--binary", str(binary.resolve())]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    say("the binary's version is that of the changelog and of cloud-init.sh")


def check_documents(release: Path, binary: str, sums: dict[str, str]) -> None:
    """Check that the bill of materials is of this binary, and that there are licenses."""
    content = json.loads((release / f"{binary}.cdx.json").read_text())
    [digest] = content["metadata"]["component"]["hashes"]
    assert digest["content"] == sums[binary]
    licenses = (release / f"{binary}.licenses.txt").read_text()
    for name in ("OpenSSL", "cryptography", "Python"):
        assert name in licenses, f"no license of {name}"
    say(
        f"the bill of materials is of this binary and lists {len(content['components'])} components"
    )


def boot(release: Path) -> None:
    """Boot a node with the release's cloud-init.sh, and check that it joins with the flags."""
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
    say("a node that boots with cloud-init.sh installs the provider and joins with the flags")
    say("the installed config equals the published one")


def roll_out(release: Path, binary: str) -> None:
    """Run the init container of the release's daemonset.yaml, with the image that it names."""
    image = Image(REPOSITORY / "dist" / "image")
    pod = yaml.safe_load((release / "daemonset.yaml").read_text())["spec"]["template"]["spec"]
    (install,) = pod["initContainers"]
    for container in (install, *pod["containers"]):
        assert container["image"].endswith(f"@{image.digest}"), container["image"]
    with tempfile.TemporaryDirectory(prefix="node-") as folder:
        node = Node(Path(folder) / "node")
        sources = {"host": "set by the node", "tmp": f"{folder}/tmp"}
        bundle = image.bundle(Path(folder) / "bundle", pod, install, sources)
        content = (bundle / "rootfs" / "oke-credential-provider").read_bytes()
        assert content == (release / binary).read_bytes()
        run = node.run_container(World({}, None), bundle)
        assert run.returncode == 0, run.stderr
    say("daemonset.yaml names the image, which has this binary and installs it")


def main() -> int:
    """Read the command line and run the steps."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.rehearsal", description=__doc__)
    parser.add_argument("release", type=Path)
    release: Path = parser.parse_args().release
    binary = f"oke-credential-provider-for-ocir-linux-{ARCHITECTURES[platform.machine()]}"
    print(f"{release}, as a user on {platform.machine()}", flush=True)
    sums = verify(release)
    check_version(release / binary)
    check_documents(release, binary, sums)
    boot(release)
    roll_out(release, binary)
    with Cloud() as cloud:
        prove(Userland(cloud, Path("/")), release / binary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
