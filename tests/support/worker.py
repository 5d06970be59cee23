"""A worker node for tests of `check` and `config`: files, a kubelet, and the program in its bin dir."""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cloud.harness import Cloud
from tests.cloud.namespace import Completed
from tests.conftest import Program
from tests.support.processes import kubelet as kubelet_at

IMAGE = "fra.ocir.io/ns/repo"
FOLDER = "/run/node"
CONFIG = f"{FOLDER}/config.yaml"
BIN_DIR = f"{FOLDER}/bin"
KUBELET = f"{FOLDER}/kubelet"
NAME = "oke-credential-provider"
FLAGS = (
    f"--image-credential-provider-config={CONFIG}",
    "--image-credential-provider-bin-dir",
    BIN_DIR,
)
# Without the machine's processes and other tests' kubelets.
ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
# Add it to an entry with `more`.
TOKEN_ATTRIBUTES = """
  tokenAttributes:
    serviceAccountTokenAudience: aud.example
    cacheType: ServiceAccount
    requireServiceAccount: true"""


def config(
    name: str = NAME,
    patterns: Sequence[str] = ("*.ocir.io", "ocir.*.oci.oraclecloud.com"),
    env: Mapping[str, str] | None = None,
    more: str = "",
) -> str:
    """A CredentialProviderConfig with one entry."""
    lines = [
        "apiVersion: kubelet.config.k8s.io/v1",
        "kind: CredentialProviderConfig",
        "providers:",
        entry(name, patterns, env, more),
    ]
    return "\n".join(lines)


def entry(
    name: str, patterns: Sequence[str], env: Mapping[str, str] | None = None, more: str = ""
) -> str:
    lines = [
        f"- name: {name}",
        "  apiVersion: credentialprovider.kubelet.k8s.io/v1",
        "  defaultCacheDuration: 5m",
        f"  matchImages: {json.dumps(list(patterns))}",
        f"  env: {json.dumps([{'name': n, 'value': v} for n, v in (env or {}).items()])}",
        more,
    ]
    return "\n".join(lines) + "\n"


def record(bin_dir: str, configs: Mapping[str, str] | None = None) -> str:
    """The record that `install` leaves in its prefix: installed.json."""
    content = {"bin_dirs": [bin_dir], "configs": configs or {}, "folders": [], "previous": ""}
    return json.dumps(content)


@dataclass(frozen=True, slots=True)
class Checked:
    """The JSON output of a check."""

    code: int
    content: dict[str, Any]

    def step(self, name: str) -> dict[str, Any]:
        (found,) = [step for step in self.content["steps"] if step["name"] == name]
        assert isinstance(found, dict)
        return found

    def names(self) -> list[str]:
        return [step["name"] for step in self.content["steps"]]

    def cause(self, name: str) -> str:
        return str(self.step(name)["cause"])

    def causes(self) -> dict[str, str]:
        """The steps that found a problem."""
        return {
            step["name"]: step["cause"]
            for step in self.content["steps"]
            if step["status"] not in ("ok", "skipped")
        }

    def result(self, name: str) -> str:
        return str(self.step(name)["came"])

    def action(self, name: str) -> str:
        return str(self.step(name)["tried"])

    def advice(self, name: str) -> str:
        return "\n".join(self.step(name)["advice"])


@dataclass(slots=True)
class Node:
    """A worker node: files, a process named kubelet, and the program in the bin dir."""

    cloud: Cloud
    program: Program
    flags: Sequence[str] | None = FLAGS  # None: no kubelet runs
    kubelet_env: Mapping[str, str] = field(default_factory=dict)
    before: str = ""  # shell commands that run before the kubelet starts

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.cloud.ns.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def config(self, text: str) -> None:
        self.write(CONFIG, text)

    def add_files(self, files: Mapping[str, str]) -> None:
        """Add files to /etc, /run/systemd/system and /usr/local."""
        for path, text in files.items():
            self.write(f"{FOLDER}/files{path}", text)
        self.before += f"""
            mkdir -p {FOLDER}/files/etc {FOLDER}/files/run/systemd/system {FOLDER}/files/usr/local
            cp -a /etc {FOLDER}/etc && cp -a {FOLDER}/files/etc/. {FOLDER}/etc
            mount --bind {FOLDER}/etc /etc
            mkdir -p /run/systemd/system
            mount --bind {FOLDER}/files/run/systemd/system /run/systemd/system
            mount --bind {FOLDER}/files/usr/local /usr/local
        """

    def add_installation(
        self, configs: Mapping[str, str] | None = None, files: Mapping[str, str] | None = None
    ) -> None:
        """Add a program that `install` put into /usr/local/opt/bin, its configs, and other files."""
        configs = configs or {}
        program = f"/usr/local/opt/bin/{NAME}"
        installed = record("/usr/local/opt/bin", dict.fromkeys(configs, "0"))
        path = f"/usr/local/lib/{NAME}/installed.json"
        self.add_files({**configs, **(files or {}), path: installed, program: "#!/bin/sh\n"})
        self.before += f"chmod 755 {program}\n"

    def run(self, *args: str, env: Mapping[str, str] | None = None) -> Completed:
        """Run the program next to the kubelet, in its own PID namespace."""
        lines = [self.before]
        if self.flags is not None:
            exports = " ".join(f"{n}={shlex.quote(v)}" for n, v in self.kubelet_env.items())
            lines += [
                f"env -i {exports} {KUBELET} {shlex.join(self.flags)} &",
                f'until [ "$(readlink /proc/$!/exe)" = {KUBELET} ]; do sleep 0.01; done',
            ]
        # The shell stays process 1.
        lines += [shlex.join([*self.program.argv, *args]), "exit $?"]
        result = self.cloud.ns.run(
            [*ALONE, "bash", "-c", "\n".join(lines)],
            env={**self.program.env, **(env or {})},
            timeout=90,
        )
        output = (result.stdout + result.stderr).decode()
        leaked = [s.kind for s in self.cloud.control.secrets() for n in s.needles() if n in output]
        assert leaked == []
        return result

    def check(self, image: str | None = IMAGE, env: Mapping[str, str] | None = None) -> Checked:
        result = self.run("check", *([image] if image else []), "--output", "json", env=env)
        assert result.stderr == b""
        return Checked(result.returncode, json.loads(result.stdout))


@pytest.fixture
def node(cloud: Cloud, program: Program) -> Iterator[Node]:
    node = Node(cloud, program)
    node.config(config())
    kubelet_at(node.cloud.ns.path(KUBELET))
    # Not a link: this clone may belong to another user than root.
    node.write(f"{BIN_DIR}/{NAME}", f'#!/bin/sh\nexec {shlex.join(program.argv)} "$@"\n', 0o755)
    yield node
    shutil.rmtree(cloud.ns.path(FOLDER))
    cloud.ns.path("/run/oke-init.sh").unlink(missing_ok=True)


def pasted(lines: Sequence[str]) -> list[list[str]]:
    """The arguments of each `oci` command in the advice, as a shell passes them."""
    shell = ["oci() { printf '%s\\0' oci \"$@\" >&3; printf '\\n' >&3; echo home-region; }"]
    shell += [line for line in lines if re.match(r"  (oci |[A-Z_]+=)", line)]
    command = "{ " + "\n".join(shell) + "\n} 3>&1 >/dev/null"
    done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=True)
    return [line.removesuffix("\0").split("\0") for line in done.stdout.splitlines()]
