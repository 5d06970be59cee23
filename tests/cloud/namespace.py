"""A network and mount namespace where OCI's names and addresses lead to the stand-in.

It needs root. A program inside is a plain child process with its own PID, signals and exit status.
"""

import base64
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Self

from tests.cloud import holder
from tests.cloud.model import IMDS_ADDRESS, PLACES

REPOSITORY = Path(__file__).resolve().parents[2]
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Paths of the CA bundle: Debian and Ubuntu, Oracle Linux.
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
_Stream = int | IO[bytes] | None


@dataclass(frozen=True, slots=True)
class Completed:
    """A process that has ended. A negative `returncode` is the signal that ended it."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes
    seconds: float  # from before the start until its output is closed and it is reaped

    def check(self) -> Self:
        """Return self. Raises AssertionError with stderr if the process failed."""
        if self.returncode != 0:
            raise AssertionError(f"{self.argv[0]}: {self.returncode}\n{self.stderr.decode()}")
        return self


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One datagram of the log socket. `fields` is empty for syslog."""

    raw: bytes

    @property
    def fields(self) -> dict[str, str]:
        """journald's native protocol: KEY=value lines, or KEY, a 64-bit length and the value."""
        fields, rest = {}, self.raw
        if rest.startswith(b"<"):
            return {}
        while rest:
            line, _, rest = rest.partition(b"\n")
            key, equals, value = line.partition(b"=")
            if not equals:
                (length,) = struct.unpack_from("<Q", rest)
                value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
            fields[key.decode()] = value.decode()
        return fields

    @property
    def text(self) -> str:
        return self.raw.decode(errors="replace")


class Closing:
    """A context manager that calls its own `close` at the end."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        raise NotImplementedError


class Namespace(Closing):
    """`close` removes the namespace with all its processes. It also ends with the process that created it."""

    def __init__(self, *, log: Literal["journal", "devlog", ""] = "journal") -> None:
        if os.geteuid() != 0:
            sys.exit(
                "A test cloud needs root: packaging/setup/as_root.sh COMMAND runs one by sudo."
            )
        self.folder = Path(tempfile.mkdtemp(prefix="cloud-"))
        try:
            self._start(log)
        except BaseException:
            shutil.rmtree(self.folder, ignore_errors=True)
            raise

    def _start(self, log: str) -> None:
        hosts = self.folder / "hosts"
        hosts.write_text(hosts_file())
        self._bundles: dict[str, Path] = {}
        for bundle in filter(os.path.exists, _BUNDLES):
            self._bundles[bundle] = self.folder / Path(bundle).name
            shutil.copyfile(bundle, self._bundles[bundle])
        layout: holder.Layout = {
            "folder": str(self.folder),
            "hosts": str(hosts),
            "bundles": {bundle: str(copy) for bundle, copy in self._bundles.items()},
            "imds": IMDS_ADDRESS,
            "log": log,
            "keep": [str(self.folder), str(REPOSITORY), sys.prefix, sys.base_prefix],
        }
        self._holder = subprocess.Popen(
            [
                _tool("unshare"),
                *("--net", "--mount", "--propagation", "private"),
                *(sys.executable, "-I", "-S", holder.__file__),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            self._ask(json.dumps(layout), "ready")
        except BaseException:
            self._holder.kill()
            self._holder.wait()
            raise
        self._enter = (
            _tool("nsenter"),
            f"--net=/proc/{self._holder.pid}/ns/net",
            f"--mount=/proc/{self._holder.pid}/ns/mnt",
            "--",
        )

    def _ask(self, line: str, expected: str | None = None) -> str:
        assert self._holder.stdin is not None and self._holder.stdout is not None
        self._holder.stdin.write(line.encode() + b"\n")
        self._holder.stdin.flush()
        answer = self._holder.stdout.readline().decode().strip()
        if not answer or expected not in (None, answer):
            raise RuntimeError("cannot create the namespace; see stderr")
        return answer

    def path(self, inside: str) -> Path:
        """Return the outside path of a path in the namespace.

        An absolute symlink on the path would lead outside, so use it only for directories like /run.
        """
        return Path(f"/proc/{self._holder.pid}/root") / inside.lstrip("/")

    def trust(self, pem: str) -> None:
        """Add a root certificate to the bundle and to the hashed directory."""
        for copy in self._bundles.values():
            with copy.open("a") as file:
                file.write("\n" + pem)
        folder = self.path(os.path.realpath("/etc/ssl/certs"))
        if folder.is_dir():
            name = subprocess.run(
                [_tool("openssl"), "x509", "-noout", "-subject_hash"],
                input=pem.encode(),
                stdout=subprocess.PIPE,
                check=True,
            ).stdout.decode()
            (folder / f"{name.strip()}.0").write_text(pem)

    def hosts(self, text: str | None = None) -> None:
        """Replace /etc/hosts (None: the initial one). Other names are unknown."""
        (self.folder / "hosts").write_text(hosts_file() if text is None else text)

    def on_disk(self, disk: Path, *places: str) -> None:
        """Mount empty directories on disk at these paths, as in a container's file system."""
        for place in places:
            # Any file system except tmpfs; `disk` may be on tmpfs.
            name = place.replace("/", "-")
            lower, upper, work = (disk / f"{part}{name}" for part in ("lower", "", "work"))
            for folder in (lower, upper, work):
                folder.mkdir()
                folder.chmod(0o1777)
            layers = f"lowerdir={lower},upperdir={upper},workdir={work}"
            self.run(["mount", "-t", "overlay", "-o", layers, "overlay", place]).check()

    def command(self, argv: Sequence[str], cwd: str = "/") -> list[str]:
        """Return `argv` with the prefix that runs it inside. The PID does not change."""
        return [*self._enter, *(() if cwd == "/" else (_tool("env"), "-C", cwd)), *argv]

    def popen(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: _Stream = subprocess.DEVNULL,
        stdout: _Stream = subprocess.PIPE,
        stderr: _Stream = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Start a process inside with the kubelet's environment: PATH and `env`, no HOME."""
        return subprocess.Popen(
            self.command(argv, cwd),
            env={"PATH": PATH, **(env or {})},
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        timeout: float = 60.0,
    ) -> Completed:
        """Run a process as the kubelet does, until all writers of its stdout have closed it.

        Kills the process group after `timeout` seconds and raises subprocess.TimeoutExpired.
        """
        began = time.perf_counter()
        process = self.popen(argv, env=env, cwd=cwd, stdin=subprocess.PIPE)
        try:
            stdout, stderr = process.communicate(stdin, timeout)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise
        seconds = time.perf_counter() - began
        return Completed(tuple(argv), process.returncode, stdout, stderr, seconds)

    def log(self) -> list[LogEntry]:
        """Return the entries that the log socket received since the last call."""
        return [LogEntry(base64.b64decode(text)) for text in json.loads(self._ask("log"))]

    def processes(self) -> list[int]:
        """Return the PIDs of all processes inside except the holder."""
        ours, pids = os.readlink(f"/proc/{self._holder.pid}/ns/net"), []
        for name in filter(str.isdecimal, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{name}/ns/net") == ours:
                    pids.append(int(name))
            except OSError:
                continue  # it has ended, or is not visible
        return [pid for pid in pids if pid != self._holder.pid]

    def close(self) -> None:
        """Kill all processes inside and remove the directory."""
        assert self._holder.stdin is not None and self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait(10)
        self._holder.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def hosts_file() -> str:
    """Return /etc/hosts with all names of the cloud."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    lines += [f"{place.address} {' '.join(place.hosts)}" for place in PLACES if place.hosts]
    return "\n".join(lines) + "\n"


def _tool(name: str) -> str:
    path = shutil.which(name, path=PATH)
    if path is None:
        raise RuntimeError(f"the test cloud needs {name}, which is not in {PATH}")
    return path
