"""systemd: run systemctl and journalctl, and read unit files."""

import glob
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from provider.commands.node.kubelet_unit import UNIT, UnitFile, environment_files, parse_properties
from provider.errors import CannotEnable
from provider.root_only import PATH, find_program

_ENVIRONMENT: Final = {"PATH": PATH, "LC_ALL": "C"}
# systemd has all of them since 235; Oracle Linux 8 has 239.
_PROPERTIES: Final = (
    "LoadState,ActiveState,SubState,MainPID,NRestarts,NeedDaemonReload,FragmentPath,DropInPaths"
)
_SECONDS: Final = 30.0
_MAX_BYTES: Final = 1 << 20
_MAX_LINE: Final = 400


class Service(NamedTuple):
    """A unit's state, as ``systemctl show`` reports it."""

    load: str
    active: str
    sub: str
    main_pid: int
    restarts: int
    need_reload: bool
    paths: tuple[str, ...]  # the unit file and its drop-ins, in the order in which they apply

    @property
    def is_running(self) -> bool:
        """True if the main process runs, and systemd is not starting or stopping it."""
        return (self.active, self.sub) == ("active", "running") and self.main_pid > 0


def require_systemd() -> None:
    """Raise CannotEnable unless this user is root and systemd is the init system."""
    if os.geteuid() != 0:
        raise CannotEnable("only root can change the kubelet's unit", "Run it with sudo.")
    if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        raise CannotEnable(
            "systemd is not the init system here",
            "Add the two flags where the kubelet is started. The command config prints a config.",
        )


def program(name: str) -> str:
    """The absolute path of a system program. Raises CannotEnable."""
    if path := find_program(name):
        return path
    raise CannotEnable(f"there is no {name} in {PATH} that only root can replace")


def systemctl(*args: str, timeout: float = _SECONDS) -> str:
    """Run systemctl. Returns its output; raises CannotEnable if it fails or takes too long."""
    try:
        done = _run("systemctl", *args, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise CannotEnable(f"systemctl {' '.join(args)} took longer than {timeout:g} s") from error
    if done.returncode != 0:
        reason = " ".join(clean(done.stderr)) or f"exit status {done.returncode}"
        raise CannotEnable(f"systemctl {' '.join(args)}: {reason}")
    return done.stdout.decode(errors="replace")


def show(unit: str = UNIT) -> Service:
    """A unit's state. Raises CannotEnable."""
    found = parse_properties(systemctl("show", unit, f"--property={_PROPERTIES}"))
    try:
        return Service(
            load=found["LoadState"],
            active=found["ActiveState"],
            sub=found["SubState"],
            main_pid=int(found.get("MainPID", 0)),
            restarts=int(found.get("NRestarts", 0)),
            need_reload=found["NeedDaemonReload"] == "yes",
            paths=tuple(f"{found['FragmentPath']} {found['DropInPaths']}".split()),
        )
    except (KeyError, ValueError) as error:
        raise CannotEnable(f"systemctl show {unit}: its output lacks {error}") from error


def is_known(*units: str) -> str | None:
    """The first of these units that systemd knows. Raises CannotEnable."""
    return next((unit for unit in units if show(unit).load == "loaded"), None)


def read_unit(service: Service) -> list[UnitFile]:
    """The unit's files, in the order in which they apply. Raises CannotEnable."""
    return [_read(path) for path in service.paths]


def read_environment(files: Sequence[UnitFile]) -> list[UnitFile]:
    """The environment files of the unit that exist. Raises CannotEnable."""
    paths = [path for pattern in environment_files(files) for path in sorted(glob.glob(pattern))]
    return [_read(path) for path in paths]


def journal(since: float, lines: int) -> list[str]:
    """The kubelet's last log lines since a time (Unix seconds), cleaned; [] without a journal."""
    try:
        done = _run(
            "journalctl",
            f"_SYSTEMD_UNIT={UNIT}",
            f"--since=@{int(since)}",
            f"--lines={lines}",
            "--output=cat",
            "--no-pager",
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired, CannotEnable):
        return []
    return [line for line in clean(done.stdout) if not line.startswith("-- ")][-lines:]


def clean(output: bytes) -> list[str]:
    """The lines that are not empty, printable and of limited length."""
    lines = output.decode(errors="replace").splitlines()
    printable = ("".join(c if c.isprintable() else "?" for c in line.strip()) for line in lines)
    return [line[:_MAX_LINE] for line in printable if line]


def _run(name: str, *args: str, timeout: float) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [program(name), *args],
        env=_ENVIRONMENT,
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        check=False,
    )


def _read(path: str) -> UnitFile:
    try:
        with Path(path).open("rb") as file:
            return UnitFile(path, file.read(_MAX_BYTES).decode("utf-8", "surrogateescape"))
    except OSError as error:
        raise CannotEnable(f"{path}: {error.strerror}") from error
