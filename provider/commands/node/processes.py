"""Find the node's kubelet among its processes.

Any user can start a process that calls itself kubelet, and a set-uid program (sudo) runs as root with
arguments that a user chose. So argv[0] proves nothing. A process is the node's kubelet only if

* its real, effective, saved and file-system user IDs are 0;
* it shares the PID and mount namespaces of process 1, so it is not in a container. This program's own
  namespaces do not count: it may run in a debug container, behind chroot /host;
* its executable is a file named kubelet that only root can replace.

All facts about a process are read through one file descriptor of /proc/PID, which never refers to a
later process with the same PID. The proof is repeated after the facts are read, because the process
can execute another program in the meantime.
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
_DELETED: Final = " (deleted)"  # the kernel appends this to an executable's path after an upgrade
# The cgroup of systemd's kubelet.service, which only root can create. It is at the top level: a user
# can create the same names below their own cgroup. "/.." leaves this program's cgroup namespace.
# `systemctl show` does not work in a chroot.
_UNIT: Final = re.compile(
    r"^(0:|\d+:name=systemd):(/\.\.)*/system\.slice/kubelet\.service$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Kubelet:
    """A kubelet that root runs outside of containers. Only a ``proven`` kubelet is trusted.

    Only a proven kubelet has ``environ`` and ``version`` ("1.34"). ``replaceable`` says how a user
    other than root can replace its executable. ``hidden``: this user has no permission to see the
    executable. ``of_unit``: it belongs to systemd's kubelet.service. ``started`` is a Unix time.
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
        """True if it is the node's kubelet and only root can replace its program."""
        return not (self.hidden or self.replaceable)

    def flag(self, name: str) -> str | None:
        """The flag's last value, as the kubelet reads it; None without the flag."""
        return flag(self.argv, name)


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes that run as a kubelet.

    ``kubelets`` are root's. ``impostors`` says why other processes with that name are not kubelets.
    ``all_seen`` is False if the processes of other users are hidden.
    """

    kubelets: tuple[Kubelet, ...] = ()
    impostors: tuple[str, ...] = ()
    all_seen: bool = True

    @property
    def proven(self) -> tuple[Kubelet, ...]:
        """The node's kubelets. The kubelet of systemd's unit is first."""
        found = [kubelet for kubelet in self.kubelets if kubelet.proven]
        return tuple(sorted(found, key=lambda kubelet: (not kubelet.of_unit, kubelet.pid)))

    @property
    def kubelet(self) -> Kubelet | None:
        """The node's kubelet: the kubelet of systemd's unit, otherwise the one with the lowest PID."""
        return next(iter(self.proven), None)


def find_kubelets(*, ask_version: bool) -> Processes:
    """Search all processes.

    ``ask_version`` executes each proven kubelet, through the file descriptor that was checked, to get
    its version. Otherwise nothing is executed.
    """
    try:
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    except OSError:
        return Processes(all_seen=False)
    found: dict[int, tuple[Kubelet, int]] = {}
    impostors = []
    for pid in pids:
        try:
            with _opened(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY) as process:
                result = _examine(process, pid, ask_version)
                parent = int(_stat(process)[1])
        except OSError:
            continue  # it ended, or it is hidden
        if isinstance(result, Kubelet):
            found[pid] = result, parent
        elif result:
            impostors.append(f"pid {pid} {result}")
    # A forked child looks like a kubelet until it executes its own program.
    kubelets = tuple(kubelet for kubelet, parent in found.values() if parent not in found)
    # The mount option hidepid hides process 1 from users other than root.
    return Processes(kubelets, tuple(impostors), os.path.exists("/proc/1/cmdline"))


def kubelet_version(program: str, *pass_fds: int) -> str | None:
    """Run ``program --version``. Returns for example "1.34", or None for any other output."""
    output = run([_NAME, "--version"], program=program, pass_fds=pass_fds)
    found = re.search(r"Kubernetes v(\d+\.\d+)", output.text)
    return found[1] if found else None


def _examine(process: int, pid: int, ask_version: bool) -> Kubelet | str | None:
    """The kubelet, the reason why a process of that name is not a kubelet, or None.

    Raises OSError if the process ended.
    """
    argv = _words(process, "cmdline")
    path = _executable_path(process)
    named = {os.path.basename(argv[0]), os.path.basename(path or "").removesuffix(_DELETED)}
    if _NAME not in named:
        return None
    if impostor := _impostor(process):
        return impostor
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
    """Prove a kubelet whose executable is open as ``program``, and read its facts."""
    if os.path.basename(path).removesuffix(_DELETED) != _NAME:
        return "runs another program"
    if not path.endswith(_DELETED) and not _is_file_at(program, path):
        return replace(kubelet, hidden=True)  # it has another root directory than this program
    if replaceable := _who_can_replace(program, path):
        return replace(kubelet, replaceable=replaceable)
    proven = replace(
        kubelet,
        argv=_words(process, "cmdline"),
        environ=dict(word.split("=", 1) for word in _words(process, "environ") if "=" in word),
        of_unit=bool(_UNIT.search(_read(process, "cgroup").decode(errors="replace"))),
    )
    if _impostor(process) or not _is_file_at(program, "exe", process):
        return None  # it executed another program
    if ask_version:
        proven = replace(proven, version=kubelet_version(f"/proc/self/fd/{program}", program))
    return proven


def _impostor(process: int) -> str | None:
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
    """None if this user has no permission. Raises OSError if there is no executable."""
    try:
        return os.readlink("exe", dir_fd=process)
    except PermissionError:
        return None


def _who_can_replace(program: int, path: str) -> str | None:
    if not path.endswith(_DELETED):
        return who_can_replace(path)
    # The file was deleted: check the file itself and the folder where it was.
    status = os.fstat(program)
    if status.st_uid != 0 or status.st_mode & 0o022:
        return f"{path} belongs to user {status.st_uid}, mode {status.st_mode & 0o7777:o}"
    return who_can_replace(os.path.dirname(path))


def _is_file_at(program: int, path: str, folder: int | None = None) -> bool:
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
    """The fields of /proc/PID/stat from field 3. The name in field 2 can contain anything."""
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
