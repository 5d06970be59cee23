"""A worker node for the examples' scripts: a root folder, and a network with OCI's and GitHub's answers.

The test uses Node. Each run starts this file again as a process in its own network and mount namespace.
An overlay over the machine's root keeps what the node writes. lo has the metadata service's address.
Both servers end with the process. Needs root.
"""

import base64
import json
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trustme

from provider.root_only import PATH

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLES = REPOSITORY / "examples" / "run-on-worker-instance-principal"
IMDS = "169.254.169.254"
ASSETS = "release-assets.githubusercontent.com"  # where GitHub redirects a download to
_UNSHARE = ("unshare", "--net", "--mount", "--propagation", "private")
_DEVICES = ("null", "zero", "urandom")

# Writes the arguments of each call to a new file, numbered in the order of the calls.
_RECORD = """#!/bin/bash
note=$(printf '/calls/%03d.{name}' "$(ls /calls | wc -l)")
printf '%s\\0' "$0" "$@" >"$note"
"""


@dataclass(frozen=True, slots=True)
class World:
    """The environment of one run. `releases`: files by path on github.com; None: GitHub is down."""

    metadata: Mapping[str, str]
    releases: Mapping[str, bytes] | None
    imds_failures: int = 0  # the first answers are errors, as on a node that just started
    usr_local_kib: int | None = None  # the size of a small file system at /usr/local
    redirect: str | None = None  # another folder's URL to which GitHub redirects


@dataclass(frozen=True, slots=True)
class Run:
    """The result of a run; `stderr` is the text for cloud-init's log."""

    returncode: int
    stderr: str
    requests: tuple[str, ...]  # to GitHub


@dataclass(frozen=True, slots=True)
class Node:
    """A machine's files, below `folder`. They persist between runs."""

    folder: Path
    authority: trustme.CA = field(default_factory=trustme.CA)

    def __post_init__(self) -> None:
        (self.folder / "root").mkdir(parents=True)
        self.write("etc/os-release", 'NAME="Oracle Linux Server"\nID="ol"\n')
        self.write("etc/hosts", f"127.0.0.1 github.com {ASSETS}\n")
        self.write("etc/ssl/certs/ca-certificates.crt", self.authority.cert_pem.bytes().decode())
        self.write("calls/.keep", "")
        self.write("dev/console", "")
        # The pauses between attempts are recorded, not waited for.
        self.program("usr/bin/sleep", _RECORD.format(name="sleep"))
        self.program("usr/bin/logger", _RECORD.format(name="logger"))

    def path(self, name: str) -> Path:
        """The path of a file that the node or the test wrote."""
        return self.folder / "upper" / name

    def write(self, name: str, text: str) -> None:
        self.path(name).parent.mkdir(parents=True, exist_ok=True)
        self.path(name).write_text(text)

    def program(self, name: str, text: str) -> None:
        self.write(name, text)
        self.path(name).chmod(0o755)

    def recorder(self, name: str) -> None:
        """A program that only records its calls, under its base name."""
        self.program(name, recorder(Path(name).name))

    def machine(self, name: str) -> None:
        """Set the output of `uname -m`."""
        self.program("usr/bin/uname", f"#!/bin/sh\necho {name}\n")

    def calls(self, name: str) -> list[list[str]]:
        """The calls of a recorder in order: the program's name and its arguments."""
        notes = sorted(self.path("calls").glob(f"*.{name}"))
        return [note.read_text().removesuffix("\0").split("\0") for note in notes]

    @property
    def console(self) -> str:
        return self.path("dev/console").read_text()

    def run(self, world: World, script: str, *args: str) -> Run:
        """Run the script as cloud-init does: as a file, as root, with a small environment."""
        self.write("cloud/script", script)
        return self._enter(world, ["/bin/bash", "/cloud/script", *args])

    def run_container(self, world: World, bundle: Path) -> Run:
        """Run an OCI bundle on the node. Its mount of the host is the node's root; its other volumes
        are new and empty."""
        return self._enter(world, [], bundle)

    def _enter(self, world: World, argv: Sequence[str], bundle: Path | None = None) -> Run:
        leaf = self.authority.issue_cert("github.com", ASSETS)
        (self.folder / "github.pem").write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
        releases = {k: base64.b64encode(v).decode() for k, v in (world.releases or {}).items()}
        stage = {
            **asdict(world),
            "releases": None if world.releases is None else releases,
            "folder": str(self.folder),
            "argv": argv,
            "bundle": bundle and str(bundle),
        }
        done = subprocess.run(
            [*_UNSHARE, sys.executable, "-m", "tests.support.node"],
            input=json.dumps(stage),
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        return Run(answer["returncode"], answer["stderr"], tuple(answer["requests"]))


def recorder(name: str, then: str = "") -> str:
    """A shell script that records its arguments for Node.calls(name), then runs `then`."""
    return _RECORD.format(name=name) + then


def with_variables(script: str, **values: str) -> str:
    """cloud-init.sh with a user's values at its top."""
    for name, value in values.items():
        script, count = re.subn(rf"^{name}=.*$", f"{name}={value}", script, flags=re.MULTILINE)
        assert count == 1, f"{name} is set {count} times"
    return script


def release(folder: str, assets: Mapping[str, str]) -> dict[str, bytes]:
    """A release's files and their SHA256SUMS, by path."""
    files = {name: text.encode() for name, text in assets.items()}
    sums = "".join(f"{sha256(body).hexdigest()}  {name}\n" for name, body in files.items())
    files["SHA256SUMS"] = sums.encode()
    return {f"{folder}/{name}": body for name, body in files.items()}


# The rest of the file runs in the process inside the namespaces.


def _stage() -> None:
    stage = json.load(sys.stdin)
    folder = Path(stage["folder"])
    _command("ip", "link", "set", "lo", "up")
    _command("ip", "address", "add", f"{IMDS}/32", "dev", "lo")
    root = _root(folder, stage["usr_local_kib"])
    requests: list[str] = []
    _serve(_imds(stage["metadata"], stage["imds_failures"]), IMDS, 80)
    if stage["releases"] is not None:
        releases = {path: base64.b64decode(body) for path, body in stage["releases"].items()}
        _serve(
            _github(releases, requests, stage["redirect"]), "127.0.0.1", 443, folder / "github.pem"
        )
    if stage["bundle"]:
        argv = _container(Path(stage["bundle"]), root)
    else:
        argv = ["chroot", str(root), *stage["argv"]]
    done = subprocess.run(
        argv,
        env={"PATH": PATH},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=100,
    )
    answer = {
        "returncode": done.returncode,
        "stderr": done.stdout.decode(errors="replace"),
        "requests": requests,
    }
    json.dump(answer, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # this ends the servers' threads


def _command(*argv: str) -> None:
    subprocess.run(argv, check=True)


def _overlay(folder: Path, target: Path) -> None:
    """Mount the machine's root at `target`. Writes go to `folder`."""
    for name in ("upper", "work"):
        (folder / name).mkdir(exist_ok=True)
    layers = f"lowerdir=/,upperdir={folder}/upper,workdir={folder}/work"
    _command("mount", "-t", "overlay", "-o", layers, "overlay", str(target))


def _root(folder: Path, usr_local_kib: int | None) -> Path:
    root = folder / "root"
    _overlay(folder, root)
    _command("mount", "--rbind", "/proc", str(root / "proc"))
    for device in _DEVICES:
        (root / "dev" / device).touch()
        _command("mount", "--bind", f"/dev/{device}", str(root / "dev" / device))
    _command("mount", "-t", "tmpfs", "tmpfs", str(root / "run"))
    # Like a hardened node.
    _command("mount", "-t", "tmpfs", "-o", "mode=1777,noexec", "tmpfs", str(root / "tmp"))
    if usr_local_kib is not None:
        local = root / "usr" / "local"
        _command("mount", "-t", "tmpfs", "-o", f"size={usr_local_kib}k", "tmpfs", str(local))
        (local / "lib").mkdir()
        (local / "bin").mkdir()
    return root


def _container(bundle: Path, root: Path) -> list[str]:
    config = json.loads((bundle / "config.json").read_text())
    for mount in config["mounts"]:
        if mount["destination"] == "/host":
            mount["source"] = str(root)
        elif mount["type"] == "bind":
            # The mode of an emptyDir. The kubelet sets no sticky bit.
            Path(mount["source"]).mkdir()
            _command("mount", "-t", "tmpfs", "-o", "mode=777", "tmpfs", mount["source"])
    (bundle / "config.json").write_text(json.dumps(config))
    return ["runc", "run", "--bundle", str(bundle), f"test-{os.getpid()}"]


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _imds(metadata: Mapping[str, str], failures: int) -> type[_Handler]:
    left = iter(range(failures))
    prefix = "/opc/v2/instance/metadata/"

    class Handler(_Handler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != "Bearer Oracle":
                return self.answer(401)
            if (number := next(left, None)) is not None:
                if number % 2:  # every second request gets no answer
                    return None
                return self.answer(429)
            value = metadata.get(self.path.removeprefix(prefix))
            if not self.path.startswith(prefix) or value is None:
                return self.answer(404, b"<html>not found</html>")
            return self.answer(200, value.encode())

    return Handler


def _github(
    releases: Mapping[str, bytes], requests: list[str], redirect: str | None
) -> type[_Handler]:
    class Handler(_Handler):
        def do_GET(self) -> None:
            body = releases.get(self.path)
            if self.headers["Host"] == ASSETS:
                return self.answer(200, body or b"")
            requests.append(self.path)
            if body is None:
                return self.answer(404, b"Not Found")
            if redirect:
                return self.answer(302, Location=f"{redirect}/{self.path.rpartition('/')[2]}")
            return self.answer(302, Location=f"https://{ASSETS}{self.path}")

    return Handler


def _serve(
    handler: type[_Handler], address: str, port: int, certificate: Path | None = None
) -> None:
    server = ThreadingHTTPServer((address, port), handler)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()


if __name__ == "__main__":
    _stage()
