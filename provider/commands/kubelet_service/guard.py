"""The guard: a systemd service that rolls a trial back unless this program confirms it.

Each trial writes the guard's unit file instead of using systemd-run, so that administrators can read
it. The unit has one command, because systemd before 240 can skip the rest of several commands after a
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
_START_SECONDS: Final = 3.0
_STOP_SECONDS: Final = 30.0
_POLL: Final = 0.2
# SIGTERM is the normal end. flock has its own timeout, so TimeoutStartSec= is infinity.
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
    """The lock that this process holds and the guard waits for."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def start(self, seconds: float) -> None:
        """Start the guard, which waits for the end of this process for at most ``seconds``.

        Raises CannotEnable, OSError.
        """
        tools = {name: program(name) for name in ("sh", "flock", "true", "rm", "systemctl")}
        text = _TEXT.format(**tools, seconds=seconds, lock=_LOCK, trial=TRIAL, unit=UNIT)
        write_file(_GUARD_FILE, text)
        systemctl("daemon-reload")
        systemctl("start", "--no-block", GUARD)
        _wait(lambda guard: guard.main_pid > 0, _START_SECONDS, f"{GUARD} did not start")

    def stop(self) -> None:
        """Stop the guard, because the change is confirmed. Raises CannotEnable, OSError."""
        systemctl("stop", "--no-block", GUARD)  # it reloads systemd as it stops
        _wait_for_end(_STOP_SECONDS)
        _GUARD_FILE.unlink(missing_ok=True)

    def roll_back(self, seconds: float) -> None:
        """Let the guard roll back, and wait until it is done. Raises CannotEnable."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        _wait_for_end(seconds)


@contextmanager
def alone(seconds: float) -> Iterator[Guard]:
    """Hold the lock. First wait for the rollback of a run that was killed.

    Raises CannotEnable if another run holds the lock, or if that rollback takes longer than ``seconds``.
    """
    fd = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _lock(fd)
        while _is_active():
            fcntl.flock(fd, fcntl.LOCK_UN)
            _wait_for_end(seconds)
            _lock(fd)
        yield Guard(fd)
    finally:
        os.close(fd)


def _lock(fd: int) -> None:
    deadline = time.monotonic() + _START_SECONDS  # the guard holds it for a moment
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise CannotEnable("another enable or disable is running on this node") from error
        time.sleep(_POLL)


def _is_active() -> bool:
    return show(GUARD).active in ("activating", "deactivating")


def _wait_for_end(seconds: float) -> None:
    _wait(lambda guard: guard.active in ("inactive", "failed"), seconds, f"{GUARD} did not end")


def _wait(until: Callable[[Service], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not until(show(GUARD)):
        if time.monotonic() > deadline:
            raise CannotEnable(otherwise)
        time.sleep(_POLL)
