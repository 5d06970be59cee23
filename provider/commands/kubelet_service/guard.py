"""The guard: a service of systemd's that rolls a trial back when nobody is there to confirm it.

Its unit is written for each trial and not made by systemd-run: what it runs can be read in the file.
It is one command, because a systemd before 240 can forget the rest of several commands at a
daemon-reload.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from provider.commands.install.files import write_file
from provider.commands.kubelet_service.systemd import Service, program, show, systemctl
from provider.commands.node.kubelet_unit import TRIAL, UNIT
from provider.errors import CannotEnable

GUARD: Final = "oke-credential-provider-guard.service"
_GUARD_FILE: Final = Path("/run/systemd/system", GUARD)
_LOCK: Final = "/run/oke-credential-provider-guard.lock"
_PATIENCE: Final = 3.0
_SECONDS: Final = 30.0
_POLL: Final = 0.2
# Stopped by SIGTERM it has done its work. TimeoutStartSec= is for systemd: the lock has its own.
_TEXT: Final = """\
[Unit]
Description=Roll back the kubelet's credential provider flags unless they are confirmed

[Service]
Type=oneshot
TimeoutStartSec=infinity
SuccessExitStatus=SIGTERM
ExecStart={sh} -c '{flock} --timeout={seconds:.0f} {lock} {true}; {rm} -f {trial}; {systemctl} daemon-reload; {systemctl} reset-failed {unit}; exec {systemctl} restart {unit}'
ExecStopPost={sh} -c '{rm} -f {trial}; exec {systemctl} daemon-reload'
"""


class Guard:
    """The lock that keeps the guard waiting, held by this process."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def start(self, seconds: float) -> None:
        """Let the guard wait for this process to end, or for ``seconds`` at most. Raises CannotEnable,
        OSError.
        """
        tools = {name: program(name) for name in ("sh", "flock", "true", "rm", "systemctl")}
        text = _TEXT.format(**tools, seconds=seconds, lock=_LOCK, trial=TRIAL, unit=UNIT)
        write_file(_GUARD_FILE, text)
        systemctl("daemon-reload")
        systemctl("start", "--no-block", GUARD)
        _wait(lambda guard: guard.main_pid > 0, _PATIENCE, f"{GUARD} does not start")

    def stop(self) -> None:
        """The change is kept, or was never made. Raises CannotEnable, OSError."""
        systemctl("stop", "--no-block", GUARD)  # it reloads systemd meanwhile
        _finish(_SECONDS)
        _GUARD_FILE.unlink(missing_ok=True)

    def roll_back(self, seconds: float) -> None:
        """Let the guard do what it is for, and wait until it has. Raises CannotEnable."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        _finish(seconds)


@contextmanager
def alone(seconds: float) -> Iterator[Guard]:
    """Hold the lock. First the rollback of a run that was killed comes to its end.

    Raises CannotEnable when another run holds the lock, or the rollback takes over ``seconds``.
    """
    fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _lock(fd)
        while _is_active():
            fcntl.flock(fd, fcntl.LOCK_UN)
            _finish(seconds)
            _lock(fd)
        yield Guard(fd)
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    deadline = time.monotonic() + _PATIENCE  # the guard has it for a moment
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise CannotEnable("another enable or disable runs on this node") from error
        time.sleep(_POLL)


def _is_active() -> bool:
    return show(GUARD).active in ("activating", "deactivating")


def _finish(seconds: float) -> None:
    _wait(lambda guard: guard.active in ("inactive", "failed"), seconds, f"{GUARD} does not end")


def _wait(until: Callable[[Service], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not until(show(GUARD)):
        if time.monotonic() > deadline:
            raise CannotEnable(otherwise)
        time.sleep(_POLL)
