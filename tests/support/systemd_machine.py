"""A worker node with a real systemd as process 1, and a stand-in for the kubelet.

The node's root is an overlay over the root of the machine that runs the tests. It has its own units
and starts none of the machine's. It has its own mount, PID, network, UTS, IPC and cgroup namespaces,
and a cgroup that is removed at the end. `power_off` does to processes and to /run what a power failure
does. Needs root.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Self

from tests.support import built
from tests.support.processes import Done

REPOSITORY = Path(__file__).resolve().parents[2]
SYSTEMD = "/usr/lib/systemd/systemd"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CONFIG = "/etc/kubernetes/credential-provider-config.yaml"
DROP_INS = "etc/systemd/system/kubelet.service.d"
_UNSHARE = ("unshare", "--mount", "--propagation", "private")
_BOOT_SECONDS = 60.0
_KUBELET = Path(__file__).with_name("standin_kubelet.py")

# Process 1 of the node, in its own namespaces: mounts the root and becomes systemd.
_INIT = """
set -eu
mount -t overlay -o "lowerdir=/,upperdir=$FOLDER/upper,workdir=$FOLDER/work" overlay "$ROOT"
mount -t proc proc "$ROOT/proc"
mount --bind "$ROOT/proc/sys" "$ROOT/proc/sys"  # the node must not change the machine's kernel
mount -o remount,bind,ro "$ROOT/proc/sys"
mount -t sysfs -o ro sysfs "$ROOT/sys"
for folder in run tmp dev var/log; do mount -t tmpfs -o mode=755 tmpfs "$ROOT/$folder"; done
chmod 1777 "$ROOT/tmp"
for path in $BOUND; do
    mkdir -p "$ROOT$path"
    mount --bind "$path" "$ROOT$path"
done
for path in $CLOSED; do chmod o+x "$ROOT$path"; done
for device in null zero full random urandom; do
    touch "$ROOT/dev/$device"
    mount --bind "/dev/$device" "$ROOT/dev/$device"
done
mount --bind "$FOLDER/units" "$ROOT/usr/lib/systemd/system"
for folder in system-generators system-environment-generators; do
    mkdir -p "$ROOT/usr/lib/systemd/$folder"
    mount -t tmpfs tmpfs "$ROOT/usr/lib/systemd/$folder"
done
mount --bind "$FOLDER/etc-systemd" "$ROOT/etc/systemd"
if [ "$CGROUP" = v2 ]; then
    mount -t cgroup2 cgroup2 "$ROOT/sys/fs/cgroup"
else
    mount -t tmpfs -o mode=755 tmpfs "$ROOT/sys/fs/cgroup"
    mkdir "$ROOT/sys/fs/cgroup/systemd"
    mount -t cgroup -o none,name=systemd cgroup "$ROOT/sys/fs/cgroup/systemd"
fi
cd "$ROOT"
mkdir run/old
pivot_root . run/old
umount -l /run/old
rmdir /run/old
exec setpriv --bounding-set=-sys_module,-sys_time,-sys_boot,-sys_rawio,-mknod,-syslog \\
    env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin "$SYSTEMD" </dev/null >&2
"""
# Enters the node's cgroup and namespaces.
_OUTER = """
set -eu
mount -t tmpfs tmpfs "$FOLDER/cgroup"
mkdir "$FOLDER/cgroup/root"
mount $CGROUP_MOUNT "$FOLDER/cgroup/root"
mkdir "$FOLDER/cgroup/root/$NAME"
echo 0 >"$FOLDER/cgroup/root/$NAME/cgroup.procs"
exec unshare --cgroup --pid --uts --ipc --net --mount --fork --kill-child \\
    --propagation private sh -c "$INIT"
"""
_CLEAN = """
mount -t tmpfs tmpfs "$FOLDER/cgroup" && mkdir "$FOLDER/cgroup/root"
mount $CGROUP_MOUNT "$FOLDER/cgroup/root"
cd "$FOLDER/cgroup/root"
for try in $(seq 50); do  # the last process may not have ended yet
    [ -d "$NAME" ] || exit 0
    find "$NAME" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
done
exit 1
"""
_CGROUP_MOUNTS = {"v2": "-t cgroup2 cgroup2", "v1": "-t cgroup -o none,name=systemd cgroup"}

_UNITS = {
    **{
        f"{name}.target": f"[Unit]\nDescription={name}\nDefaultDependencies=no\n"
        for name in ("sysinit", "basic", "shutdown", "umount", "final", "sockets")
    },
    "default.target": """
        [Unit]
        Requires=basic.target systemd-journald.service
        Wants=kubelet.service pod@1.service pod@2.service pod@3.service pod@4.service
        """,
    "systemd-journald.socket": """
        [Unit]
        DefaultDependencies=no
        [Socket]
        ListenDatagram=/run/systemd/journal/socket
        ListenStream=/run/systemd/journal/stdout
        PassCredentials=yes
        Timestamping=us
        """,
    "systemd-journald.service": """
        [Unit]
        DefaultDependencies=no
        Requires=systemd-journald.socket
        After=systemd-journald.socket
        [Service]
        Type=notify
        ExecStart=/lib/systemd/systemd-journald
        FileDescriptorStoreMax=100
        Restart=always
        """,
    # A container: a process in a cgroup below kubepods.
    "pod@.service": """
        [Service]
        Slice=kubepods.slice
        ExecStart=/bin/sleep infinity
        SuccessExitStatus=SIGKILL
        """,
}
PLAIN_UNIT = """
[Service]
ExecStart=/usr/bin/kubelet --config=/etc/kubernetes/kubelet.yaml
Restart=always
RestartSec=1
"""


@cache
def systemd_version() -> int:
    done = subprocess.run([SYSTEMD, "--version"], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[1].partition(".")[0])


def cgroup_versions() -> list[str]:
    """The cgroup versions that this systemd supports: since 256 only v2."""
    return ["v2", "v1"] if systemd_version() < 256 else ["v2"]


@cache
def kubelet_binary() -> Path:
    """The stand-in: an executable, so that /proc/PID/exe is like the kubelet's."""
    target = REPOSITORY / "build" / "standin-kubelet"
    target.parent.mkdir(exist_ok=True)
    source = _KUBELET.with_suffix(".c")
    definitions = [f'-DPYTHON="{sys.executable}"', f'-DSCRIPT="{_KUBELET}"']
    fresh = target.with_name(f"{target.name}.{os.getpid()}")
    subprocess.run(
        ["musl-gcc", "-static", "-O1", *definitions, "-o", str(fresh), str(source)], check=True
    )
    fresh.replace(target)
    return target


@dataclass(slots=True)
class Machine:
    """A node in the directory ``folder``. Its files survive a power failure."""

    folder: Path
    cgroup: str = "v2"
    _process: subprocess.Popen[bytes] | None = None
    _pid: int = 0
    _commands: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("root", "upper", "work", "cgroup", "units", "etc-systemd/system"):
            (self.folder / name).mkdir(parents=True)
        for name, text in _UNITS.items():
            (self.folder / "units" / name).write_text(_dedented(text))
        self.write("etc/systemd/journald.conf", "[Journal]\nStorage=volatile\nReadKMsg=no\n")
        self.write("etc/hostname", "node-1\n")
        self.write("etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        for name in ("etc/kubernetes/x", "usr/local/bin/x", "usr/bin/x"):
            self.path(name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kubelet_binary(), self.path("usr/bin/kubelet"))
        self.write("etc/kubernetes/kubelet.yaml", "kind: KubeletConfiguration\n")
        self.write("etc/systemd/system/kubelet.service", PLAIN_UNIT)

    # ---- files ----

    def path(self, name: str) -> Path:
        """A file of the node: in its mount namespace while it runs, else in the overlay."""
        if self._process:
            return Path(f"/proc/{self._pid}/root", name)
        inner = name.removeprefix("etc/systemd/")
        return self.folder / ("etc-systemd" if inner != name else "upper") / inner

    def write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_dedented(text))
        path.chmod(mode)

    def drop_in(self, name: str, text: str) -> None:
        self.write(f"{DROP_INS}/{name}", text)

    @property
    def drop_ins(self) -> list[str]:
        """The names of the unit's drop-ins in /etc."""
        folder = self.path(DROP_INS)
        return sorted(os.listdir(folder)) if folder.exists() else []

    def program(self, argv: Sequence[str]) -> None:
        """Put the program into the bin dir, as a file that root owns."""
        path = self.path("usr/local/bin/oke-credential-provider")
        path.unlink(missing_ok=True)
        tree = Path(argv[0]).parents[1]
        if (tree / "MANIFEST").exists():
            inside = "usr/local/lib/oke-credential-provider/tested"
            shutil.copytree(tree, self.path(inside))
            path.symlink_to(f"/{inside}/bin/oke-credential-provider")
            return
        if Path(argv[0]).read_bytes()[:4] == b"\x7fELF":
            shutil.copy(argv[0], path)
        else:
            measured = "".join(
                f"export {name}={value}\n"
                for name, value in os.environ.items()
                if name.startswith("COVERAGE_PROCESS_")
            )
            path.write_text(f'#!/bin/sh\n{measured}exec {" ".join(argv)} "$@"\n')
        path.chmod(0o755)

    def provider_config(self, name: str = "oke-credential-provider", more: str = "") -> None:
        self.write(
            CONFIG.lstrip("/"),
            f"""
            apiVersion: kubelet.config.k8s.io/v1
            kind: CredentialProviderConfig
            providers:
            - name: {name}
              apiVersion: credentialprovider.kubelet.k8s.io/v1
              defaultCacheDuration: 5m
              matchImages: ["*.ocir.io"]
            {more}
            """,
        )

    def misbehave(self, **behavior: object) -> None:
        """Set how the kubelet behaves with the two flags; see standin_kubelet.py."""
        self.write("etc/kubernetes/behavior.json", json.dumps(behavior))

    # ---- power ----

    @property
    def is_on(self) -> bool:
        return self._process is not None

    def boot(self) -> Self:
        needed = (REPOSITORY, Path(sys.prefix), Path(sys.base_prefix))
        bound = {
            str(path)
            for path in needed
            if path.stat().st_dev != Path("/").stat().st_dev
            or path.is_relative_to("/tmp")
            or built.is_measured()  # not below the overlay, so that coverage's files stay
        }
        env = {
            "PATH": PATH,
            "FOLDER": str(self.folder),
            "ROOT": str(self.folder / "root"),
            "BOUND": " ".join(sorted(bound)),
            # Parent directories that other users cannot enter, such as /root.
            "CLOSED": " ".join(
                str(folder)
                for path in needed
                for folder in path.parents
                if not folder.stat().st_mode & 0o001
            ),
            "SYSTEMD": SYSTEMD,
            "CGROUP": self.cgroup,
            "INIT": _INIT,
            **self._cgroup_env(),
        }
        with (self.folder / "console").open("w") as console:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *_UNSHARE, "sh", "-c", _OUTER],
                env=env,
                stderr=console,
            )
        deadline = time.monotonic() + _BOOT_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self.folder / "console").read_text()
            self._pid = _systemd_below(self._process.pid)
            if self._pid:
                state = self.run("systemctl", "is-active", "default.target").stdout.strip()
                if state == "active":
                    return self
            time.sleep(0.05)
        raise TimeoutError((self.folder / "console").read_text())

    def power_off(self) -> None:
        """Kill process 1 and with it all other processes."""
        if self._process is None:
            return
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait()
        self._process, self._pid = None, 0
        for process in self._commands:
            process.communicate()
        self._commands.clear()
        subprocess.run(
            [*_UNSHARE, "sh", "-c", _CLEAN], env={"PATH": PATH, **self._cgroup_env()}, check=True
        )

    def _cgroup_env(self) -> dict[str, str]:
        return {
            "FOLDER": str(self.folder),
            "NAME": f"oke-test-{os.getpid()}-{abs(hash(str(self.folder))):x}",
            "CGROUP_MOUNT": _CGROUP_MOUNTS[self.cgroup],
        }

    # ---- commands ----

    def popen(self, *argv: str) -> subprocess.Popen[bytes]:
        """Start a command on the node as root."""
        process = subprocess.Popen(
            ["nsenter", "--target", str(self._pid), "--all", "--", *argv],
            env={"PATH": PATH, "HOME": "/root"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._commands.append(process)
        return process

    def run(self, *argv: str, timeout: float = 150.0) -> Done:
        process = self.popen(*argv)
        stdout, stderr = process.communicate(timeout=timeout)
        self._commands.remove(process)
        return Done(process.returncode, stdout.decode(), stderr.decode())

    def oke(self, *args: str, timeout: float = 150.0) -> Done:
        return self.run("/usr/local/bin/oke-credential-provider", *args, timeout=timeout)

    def show(self, name: str, unit: str = "kubelet.service") -> str:
        done = self.run("systemctl", "show", "--value", f"--property={name}", unit)
        return done.check().stdout.strip()

    @property
    def kubelet_pid(self) -> int:
        return int(self.show("MainPID"))

    @property
    def command_line(self) -> list[str]:
        """The arguments of the running kubelet; [] if none runs."""
        deadline = time.monotonic() + 10
        while pid := self.kubelet_pid:
            name, *arguments = (
                self.run("cat", f"/proc/{pid}/cmdline").stdout.rstrip("\0").split("\0")
            )
            if name.endswith("kubelet"):
                return arguments
            assert time.monotonic() < deadline  # systemd's child has not yet executed it
            time.sleep(0.05)
        return []

    def wait_for_kubelet(self, port: int = 10248, seconds: float = 60.0) -> None:
        """Wait until the unit's kubelet responds."""
        deadline = time.monotonic() + seconds
        ask = ["curl", "--silent", "--fail", "--max-time", "1", f"http://127.0.0.1:{port}/healthz"]
        while self.run(*ask).code or self.show("SubState") != "running":
            assert time.monotonic() < deadline, self.run("journalctl", "-n", "30").stdout
            time.sleep(0.1)


def _systemd_below(pid: int) -> int:
    """The pid of the child that has become systemd; 0 if there is none yet."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):  # a helper process has ended
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n":
                return int(child)
    return 0


def _dedented(text: str) -> str:
    """The text without the indentation of its first line."""
    lines = text.strip("\n").split("\n")
    depth = len(re.match(r" *", lines[0])[0])  # type: ignore[index]
    return "\n".join(line[depth:] if line[:depth].isspace() else line for line in lines) + "\n"
