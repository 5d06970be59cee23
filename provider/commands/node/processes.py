"""The node's kubelet among its processes.

Any user can start a process that calls itself kubelet, and a set-uid program (sudo) runs as root with
arguments that a user chose. So argv[0] proves nothing. A process is the node's kubelet only if

* its real, effective, saved and file-system user IDs are 0,
* it shares the PID and mount namespaces of process 1, so it is in no container. This program's own
  namespaces do not count: it may run in a debug container, behind chroot /host;
* its executable is a file named kubelet that root alone can replace.

All facts of a process are read through one descriptor of /proc/PID, which never leads to a later
process of the same number. The proof is repeated after the facts were read, because a process can
execute another program meanwhile.
"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from provider.auth.kubeconfig import flag
from provider.commands.node.files import run
from provider.root_only import who_can_replace

_NAME: Final = "kubelet"
_DELETED: Final = " (deleted)"  # what the kernel puts behind an executable's path after an upgrade
# The cgroup of systemd's kubelet.service, which root alone can make. It stands at the top: a user can
# make the same names below a cgroup of his own. "/.." leads out of this program's cgroup namespace.
# The cgroup is read because `systemctl show` would be one more program to run, and refuses in a chroot.
_UNIT: Final = re.compile(
    r"^(0:|\d+:name=systemd):(/\.\.)*/system\.slice/kubelet\.service$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Kubelet:
    """A kubelet that root runs outside of containers. It is believed only if it is ``proven``.

    ``environ`` and ``version`` ("1.34") are known only then. ``replaceable`` says how somebody else
    can replace its executable. With ``hidden`` this user may not see the executable. ``of_unit``: it
    belongs to systemd's kubelet.service. ``started`` is in Unix seconds.
    """

    pid: int
    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    version: str | None = None
    started: float = 0.0
    of_unit: bool = False
    replaceable: str | None = None
    hidden: bool = False

    @property
    def proven(self) -> bool:
        """True when nothing contradicts that it is the node's kubelet."""
        return not (self.hidden or self.replaceable)

    def flag(self, name: str) -> str | None:
        """The flag's value; the last one counts, as for the kubelet. None when it is not given."""
        return flag(self.argv, name)


@dataclass(frozen=True, slots=True)
class Processes:
    """What runs as a kubelet.

    ``kubelets``: those of root's; more than one is possible. ``strangers`` says why other processes
    of that name are none. ``all_seen`` is False when the processes of others are hidden.
    """

    kubelets: tuple[Kubelet, ...] = ()
    strangers: tuple[str, ...] = ()
    all_seen: bool = True

    @property
    def proven(self) -> tuple[Kubelet, ...]:
        """The node's kubelets, that of systemd's unit first."""
        found = [kubelet for kubelet in self.kubelets if kubelet.proven]
        return tuple(sorted(found, key=lambda kubelet: (not kubelet.of_unit, kubelet.pid)))

    @property
    def kubelet(self) -> Kubelet | None:
        """The node's kubelet: the main process of systemd's unit, else the first one."""
        return next(iter(self.proven), None)


def find_kubelets(*, ask_version: bool) -> Processes:
    """Look at all processes. Nothing is executed unless ``ask_version``: then each proven kubelet's
    executable is, by the descriptor that was checked.
    """
    try:
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    except OSError:
        return Processes(all_seen=False)
    found: dict[int, tuple[Kubelet, int]] = {}
    strangers = []
    for pid in pids:
        try:
            with _opened(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY) as process:
                result = _examine(process, pid, ask_version)
                parent = int(_stat(process)[1])
        except OSError:
            continue  # it has ended, or is hidden
        if isinstance(result, Kubelet):
            found[pid] = result, parent
        elif result:
            strangers.append(f"pid {pid} {result}")
    # A child of a kubelet's is one until it executes its own program.
    kubelets = tuple(kubelet for kubelet, parent in found.values() if parent not in found)
    # With hidepid, process 1 is hidden from all but root.
    return Processes(kubelets, tuple(strangers), os.path.exists("/proc/1/cmdline"))


def kubelet_version(program: str, *pass_fds: int) -> str | None:
    """Run ``program --version``. Returns "1.34", or None when that is not what it prints."""
    answered = run([_NAME, "--version"], program=program, pass_fds=pass_fds)
    found = re.search(r"Kubernetes v(\d+\.\d+)", answered.text)
    return found[1] if found else None


def _examine(process: int, pid: int, ask_version: bool) -> Kubelet | str | None:
    """The kubelet, what makes this process none although it calls itself so, or None. Raises OSError
    when it has ended.
    """
    argv = _words(process, "cmdline")
    path = _executable_path(process)
    named = {os.path.basename(argv[0]), os.path.basename(path or "").removesuffix(_DELETED)}
    if _NAME not in named:
        return None
    if stranger := _stranger(process):
        return stranger
    kubelet = Kubelet(pid, argv, started=_started(process))
    try:
        if not _outside_of_containers(process):
            return "is in a container"
        with _opened("exe", os.O_PATH, process) as program:
            return _prove(kubelet, process, program, path or "", ask_version)
    except PermissionError:
        return replace(kubelet, hidden=True)


def _prove(
    kubelet: Kubelet, process: int, program: int, path: str, ask_version: bool
) -> Kubelet | str | None:
    """Add what is known of a kubelet whose executable is open as ``program``."""
    if os.path.basename(path).removesuffix(_DELETED) != _NAME:
        return "runs another program"
    if not path.endswith(_DELETED) and not _is_at(program, path):
        return replace(kubelet, hidden=True)  # in another root directory than this program's
    if replaceable := _who_can_replace(program, path):
        return replace(kubelet, replaceable=replaceable)
    proven = replace(
        kubelet,
        argv=_words(process, "cmdline"),
        environ=dict(word.split("=", 1) for word in _words(process, "environ") if "=" in word),
        of_unit=bool(_UNIT.search(_read(process, "cgroup").decode(errors="replace"))),
    )
    if _stranger(process) or not _is_at(program, "exe", process):
        return None  # it executed another program meanwhile
    if ask_version:
        proven = replace(proven, version=kubelet_version(f"/proc/self/fd/{program}", program))
    return proven


def _stranger(process: int) -> str | None:
    for line in _read(process, "status").splitlines():
        if line.startswith(b"Uid:"):
            users = {user.decode() for user in line.split()[1:]} - {"0"}
            return f"is user {min(users)}'s" if users else None
    raise ProcessLookupError


def _outside_of_containers(process: int) -> bool:
    return all(
        os.path.samestat(os.stat(f"ns/{kind}", dir_fd=process), os.stat(f"/proc/1/ns/{kind}"))
        for kind in ("pid", "mnt")
    )


def _executable_path(process: int) -> str | None:
    """None when this user may not see it. Raises OSError when there is none."""
    try:
        return os.readlink("exe", dir_fd=process)
    except PermissionError:
        return None


def _who_can_replace(program: int, path: str) -> str | None:
    if not path.endswith(_DELETED):
        return who_can_replace(path)
    # The file has no name any more: what counts is where it was, and who can write to it.
    status = os.fstat(program)
    if status.st_uid != 0 or status.st_mode & 0o022:
        return f"{path} belongs to user {status.st_uid}, mode {status.st_mode & 0o7777:o}"
    return who_can_replace(os.path.dirname(path))


def _is_at(program: int, path: str, folder: int | None = None) -> bool:
    try:
        return os.path.samestat(os.fstat(program), os.stat(path, dir_fd=folder))
    except OSError:
        return False


def _started(process: int) -> float:
    with open("/proc/stat", encoding="ascii") as file:
        boot = re.search(r"^btime (\d+)", file.read(), re.MULTILINE)
    # proc(5): starttime is field 22, in clock ticks since boot.
    ticks = int(_stat(process)[19])
    return (int(boot[1]) if boot else 0) + ticks / os.sysconf("SC_CLK_TCK")


def _stat(process: int) -> list[bytes]:
    """/proc/PID/stat from field 3, the state, on. The name before it may contain anything."""
    return _read(process, "stat").rpartition(b")")[2].split()


def _words(process: int, name: str) -> tuple[str, ...]:
    return tuple(os.fsdecode(_read(process, name)).rstrip("\0").split("\0"))


def _read(process: int, name: str) -> bytes:
    with _opened(name, os.O_RDONLY, process) as fd, open(fd, "rb", closefd=False) as file:
        return file.read()


@contextmanager
def _opened(path: str, flags: int, folder: int | None = None) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC, dir_fd=folder)
    try:
        yield fd
    finally:
        os.close(fd)
