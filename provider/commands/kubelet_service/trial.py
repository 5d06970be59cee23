"""The trial: restart the kubelet with a change, watch it, then keep the change or roll it back."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple, NoReturn

from provider.commands.install.files import make_directories, write_file
from provider.commands.kubelet_service.guard import Guard, alone
from provider.commands.kubelet_service.health import (
    Expected,
    Unhealthy,
    judge_containers,
    kubelet_containers,
    wait_until_healthy,
)
from provider.commands.kubelet_service.systemd import journal, read_unit, show, systemctl
from provider.commands.node.kubelet_unit import DROP_IN, TRIAL, UNIT, UnitFile, values
from provider.errors import CannotEnable, KubeletUnhealthy, ProviderError, RolledBack, Terminated

# Seconds that systemd may need to stop, to reload and to roll back.
_MARGIN: Final = 60.0
_JOURNAL_LINES: Final = 10
_KLOG_ERROR: Final = re.compile(r"[EF]\d{4} ")


class Options(NamedTuple):
    """The options of both commands. Times are in seconds."""

    watch: float
    timeout: float
    dry_run: bool = False

    @property
    def longest(self) -> float:
        """The time limit of a trial, and that of its rollback."""
        return self.timeout + self.watch + _MARGIN


@dataclass(frozen=True, slots=True)
class Trial:
    """A change to try: the text of the drop-in, and how to keep the change or to undo it."""

    text: str
    expected: Expected
    keep: Callable[[], object]
    undo: Callable[[], object]


@contextmanager
def guarded(options: Options) -> Iterator[Guard | None]:
    """Hold the lock of the kubelet's unit. A dry run takes no lock and yields None.

    Raises CannotEnable, also for a failure of the file system.
    """
    if options.dry_run:
        yield None
        return
    os.umask(0o022)
    _on_signals(_end)
    try:
        with alone(options.longest) as guard:
            yield guard
    except OSError as error:
        raise CannotEnable(f"{error.filename or DROP_IN}: {error.strerror}") from error


def _end(number: int, _frame: object) -> NoReturn:
    raise Terminated(f"ended by {signal.Signals(number).name}")


def _on_signals(action: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, action)


def try_out(
    guard: Guard, trial: Trial, options: Options, say: Callable[[str], None]
) -> dict[str, object]:
    """Restart the kubelet with the trial, watch it, keep the change. Returns facts for the output.

    Raises RolledBack, KubeletUnhealthy.
    """
    before = kubelet_containers()
    started = time.time()
    guard.start(options.longest)
    try:
        make_directories(Path(TRIAL).parent)
        write_file(Path(TRIAL), trial.text)
        systemctl("daemon-reload")
        _require_command(trial.text)
        say(f"restarting the kubelet, then watching it for {options.watch:g} s")
        restart(options)
        pid = wait_until_healthy(trial.expected, options.timeout, options.watch)
        still = judge_containers(before, kubelet_containers())
        _on_signals(signal.SIG_IGN)
        trial.keep()
    except BaseException as error:
        _roll_back(guard, trial, options, started, error, say)
    try:
        guard.stop()
    except (CannotEnable, OSError) as error:
        say(f"the guard was not stopped ({error}): it may restart the kubelet once more")
    service = show()
    if service.main_pid != pid or service.need_reload:
        raise KubeletUnhealthy("something else restarted the kubelet during the trial")
    healthz = "healthz is off" if trial.expected.healthz is None else "healthz responds"
    say(
        f"the kubelet (pid {pid}) is healthy: {healthz}, {still} of {len(before)} containers still run"
    )
    return {"pid": pid, "containers_before": len(before), "containers_after": still}


def _require_command(text: str) -> None:
    """Raise CannotEnable unless the trial's command is the one that systemd has loaded."""
    service = show()
    wanted = values([UnitFile(TRIAL, text)], "ExecStart")
    if service.load != "loaded" or values(read_unit(service), "ExecStart") != wanted:
        raise CannotEnable(f"systemd did not load {TRIAL}: {UNIT} is {service.load}")


def restart(options: Options) -> None:
    """Restart the kubelet. Raises CannotEnable."""
    systemctl("reset-failed", UNIT)
    systemctl("restart", UNIT, timeout=options.timeout)


def _roll_back(
    guard: Guard,
    trial: Trial,
    options: Options,
    started: float,
    error: BaseException,
    say: Callable[[str], None],
) -> NoReturn:
    _on_signals(signal.SIG_IGN)
    reason = error.message if isinstance(error, ProviderError) else str(error)
    failed = "the kubelet did not stay healthy"
    lines = journal(started, _JOURNAL_LINES)
    if isinstance(error, OSError):
        reason = f"{error.filename or TRIAL}: {error.strerror}"
        failed, lines = "the change could not be made", []
    say(f"rolling back: {reason}")
    for line in lines:
        say(f"  kubelet: {line}")
    try:
        with suppress(OSError):
            trial.undo()
        guard.roll_back(options.longest)
        settle(trial.expected._replace(flags={}), options)
    except ProviderError as failure:
        raise KubeletUnhealthy(f"{reason}; after the rollback: {failure.message}") from error
    errors = [line for line in lines if _KLOG_ERROR.match(line)]
    quoted = "".join(f"; its log: {line}" for line in (errors or lines)[-1:])
    raise RolledBack(f"{failed}: {reason}{quoted}") from error


def settle(expected: Expected, options: Options) -> dict[str, object]:
    """Wait until the restarted kubelet is healthy. Raises KubeletUnhealthy."""
    try:
        return {"pid": wait_until_healthy(expected, options.timeout, watch=0)}
    except Unhealthy as error:
        raise KubeletUnhealthy(str(error)) from error
