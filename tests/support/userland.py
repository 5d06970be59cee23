"""`python -m tests.support.userland [--root DIRECTORY] BINARY`: test a binary in another userland.

The directory is the root of a system: of this machine (the default), an exported container image, or a
debootstrap. It is the lower layer of an overlay in a test cloud, so it does not change. There the
binary must print its version, get credentials that pull an image, install itself, do the same in the
installed form, and uninstall itself completely.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.cloud.harness import Cloud
from tests.cloud.namespace import Completed, hosts_file
from tests.support.kubelet import read_response, request

IMAGE = "fra.ocir.io/ns/repo"
INSTALLED = "/usr/local/bin/oke-credential-provider"
CONFIG = "/etc/kubernetes/credential-provider-config.yaml"
PREFIX = "/usr/local/lib/oke-credential-provider"
_DEVICES = ("null", "zero", "random", "urandom")
# The distributions' CA bundles. Ubuntu's container images have none, but its nodes do.
_TRUST = """
for bundle in /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/certs/ca-certificates.crt; do
    [ ! -e "$bundle" ] || found=$bundle
done
if [ -z "${found-}" ]; then
    mkdir -p /etc/ssl/certs
    found=/etc/ssl/certs/ca-certificates.crt
fi
cat >>"$found"
"""


class Userland:
    """The system below `root`, with this machine's kernel and the cloud's network."""

    def __init__(self, cloud: Cloud, root: Path) -> None:
        self.cloud = cloud
        # Not in the cloud's directory, because the cloud removes that recursively.
        self.root = Path("/mnt/root")
        self._mount(root.resolve())
        self.write("/etc/hosts", hosts_file().encode())
        self.run(["/bin/sh", "-c", _TRUST], stdin=cloud.ca.encode()).check()

    def _mount(self, lower: Path) -> None:
        """Mount the root in the cloud's mount namespace, which ends with the cloud."""
        self._inside("mount", "-t", "tmpfs", "tmpfs", "/mnt")
        self._inside("mkdir", "/mnt/upper", "/mnt/work", str(self.root))
        layers = f"lowerdir={lower},upperdir=/mnt/upper,workdir=/mnt/work"
        self._inside("mount", "-t", "overlay", "-o", layers, "overlay", str(self.root))
        for name in ("proc", "run"):
            self._inside("mount", "--rbind", f"/{name}", str(self.root / name))
        for name in _DEVICES:
            self._inside("touch", str(self.root / "dev" / name))
            self._inside("mount", "--bind", f"/dev/{name}", str(self.root / "dev" / name))
        # noexec, as on a hardened node.
        options = ("-o", "mode=1777,noexec")
        self._inside("mount", "-t", "tmpfs", *options, "tmpfs", str(self.root / "tmp"))

    def _inside(self, *argv: str) -> None:
        self.cloud.ns.run(argv).check()

    def run(self, argv: Sequence[str], stdin: bytes = b"") -> Completed:
        """Run a command in the userland, with the kubelet's environment."""
        return self.cloud.ns.run(["chroot", str(self.root), *argv], stdin=stdin)

    def write(self, path: str, data: bytes, mode: str = "644") -> None:
        """Write a file in the userland."""
        self.run(["/bin/sh", "-c", f"cat >{path} && chmod {mode} {path}"], stdin=data).check()

    def read(self, path: str) -> bytes:
        """Read a file. Raises AssertionError if it does not exist."""
        return self.run(["/bin/cat", path]).check().stdout

    @property
    def name(self) -> str:
        """The name in /etc/os-release."""
        show = '. /etc/os-release; echo "$PRETTY_NAME"'
        return self.run(["/bin/sh", "-c", show]).check().stdout.decode().strip()


def prove(userland: Userland, binary: Path) -> None:
    """Run and print each step. Raises AssertionError at the first that fails."""
    asset = f"/root/{binary.name}"
    userland.write(asset, binary.read_bytes(), "755")
    facts = json.loads(userland.run([asset, "version", "--output", "json"]).check().stdout)
    assert facts["frozen"] is True
    say(f"version {facts['version']}, {facts['architecture']}, needs {facts['libc_floor']}")
    refused = userland.cloud.registry.pull_with_skopeo(f"{IMAGE}:latest", None)
    assert refused.returncode != 0, "the image must be private"
    exchange_and_pull(userland, asset)
    say("as one file: a token exchange, and a pull with its credentials")

    userland.run([asset, "install"]).check()
    assert (
        userland.run([INSTALLED, "version"]).check().stdout.decode().split()[1] == facts["version"]
    )
    assert b"kind: CredentialProviderConfig" in userland.read(CONFIG)
    exchange_and_pull(userland, INSTALLED)
    say("installed: a token exchange, and a pull with its credentials")

    userland.run([asset, "uninstall"]).check()
    for path in (INSTALLED, CONFIG, PREFIX):
        assert userland.run(["/bin/ls", path]).returncode != 0, f"{path} was not removed"
    say("uninstalled: nothing is left")


def exchange_and_pull(userland: Userland, program: str) -> None:
    """Make one cold kubelet call, and pull with its credentials."""
    cloud = userland.cloud
    userland.run(["/bin/rm", "-rf", "/run/oke-credential-provider"]).check()
    cloud.control.reset_counters()
    answer = read_response(userland.run([program], stdin=request(IMAGE)).check().stdout)
    exchanged = [seen.endpoint for seen in cloud.control.report().requests]
    assert "federation" in exchanged and "token" in exchanged, exchanged
    cloud.registry.pull_with_skopeo(f"{IMAGE}:latest", answer.password).check()


def say(line: str) -> None:
    """Print a step that passed."""
    print(f"  ok  {line}", flush=True)


def main() -> int:
    """Read the command line, create the cloud, run the steps."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.userland", description=__doc__)
    parser.add_argument("--root", metavar="DIRECTORY", type=Path, default=Path("/"))
    parser.add_argument("binary", type=Path)
    options = parser.parse_args()
    with Cloud() as cloud:
        userland = Userland(cloud, options.root)
        print(f"{options.binary.name} on {userland.name}", flush=True)
        prove(userland, options.binary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
