"""``enable`` and ``disable``: what is to be changed, and the trial that comes before the change."""

import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple, NoReturn

from provider.commands.check import kubelet as judgements
from provider.commands.check.gate import judge_files
from provider.commands.install.files import make_folders, sync, write_file
from provider.commands.kubelet_service.guard import Guard, alone
from provider.commands.kubelet_service.health import (
    Expected,
    Unhealthy,
    healthz_address,
    judge_containers,
    kubelet_containers,
    wait_until_healthy,
    why_unhealthy,
)
from provider.commands.kubelet_service.systemd import (
    Service,
    is_known,
    journal,
    read_environment,
    read_unit,
    require_systemd,
    show,
    systemctl,
)
from provider.commands.node import files as node
from provider.commands.node.files import BIN_DIR_FLAG, CONFIG_FLAG, ConfigFiles, Executable
from provider.commands.node.kubelet_unit import (
    DROP_IN,
    TRIAL,
    UNIT,
    FlagSetting,
    UnitFile,
    UnsupportedCommand,
    command_of,
    drop_in,
    flags_in,
    is_written_by_enable,
    values,
    without_ours,
)
from provider.commands.node.processes import Kubelet, find_kubelets
from provider.errors import CannotEnable, KubeletUnhealthy, ProviderError, RolledBack, Terminated

_FLAGS: Final = (CONFIG_FLAG, BIN_DIR_FLAG)
# What systemd takes literally in an ExecStart=.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:,=@+-]+", re.ASCII)
# For systemd's own time: stopping, reloading, the rollback.
_MARGIN: Final = 60.0
# What was written this shortly after the kubelet's start is part of the same boot.
_SAME_START: Final = 60.0
_JOURNAL_LINES: Final = 10
_KLOG_ERROR: Final = re.compile(r"[EF]\d{4} ")
# Distributions that run the kubelet inside their own process, and where its flags belong.
_EMBEDDED: Final = {
    "k3s": ("k3s.service", "k3s-agent.service"),
    "rke2": ("rke2-server.service", "rke2-agent.service"),
    "k0s": ("k0scontroller.service", "k0sworker.service"),
    "MicroK8s": ("snap.microk8s.daemon-kubelite.service",),
}

Say = Callable[[str], None]


class Options(NamedTuple):
    """What the two commands are told. Times are in seconds."""

    watch: float
    timeout: float
    dry_run: bool = False

    @property
    def longest(self) -> float:
        """How long a trial can take, and how long its rollback."""
        return self.timeout + self.watch + _MARGIN


@dataclass(slots=True)
class Outcome:
    """What a command did, or would do. ``drop_in``: the text in effect; None without one."""

    changed: bool
    drop_in: str | None
    kubelet: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Unit:
    """The kubelet's unit without what ``enable`` wrote: the node's own files."""

    service: Service
    files: Sequence[UnitFile]
    environment: Sequence[UnitFile]

    @property
    def flags(self) -> list[FlagSetting]:
        return flags_in([*self.files, *self.environment])


@dataclass(frozen=True, slots=True)
class _Trial:
    """A change that is to be proven: the drop-in's text, and how to keep it and to go back."""

    text: str
    expected: Expected
    keep: Callable[[], object]
    undo: Callable[[], object]


def flags(config: str, bin_dir: str) -> dict[str, str]:
    """The two flags, by absolute paths. Raises CannotEnable for a path that needs quoting."""
    for path in (config, bin_dir):
        if not _PLAIN.fullmatch(path):
            raise CannotEnable(f"{path!r} cannot stand in a unit file as it is", "Choose another.")
    return {CONFIG_FLAG: config, BIN_DIR_FLAG: bin_dir}


def enable(wanted: Mapping[str, str], options: Options, say: Say) -> Outcome:
    """Give the running kubelet the flags ``wanted``.

    Raises CannotEnable when nothing was changed, RolledBack when the change was taken back, and
    KubeletUnhealthy when the kubelet is not healthy even so.
    """
    require_systemd()
    with _guarded(options) as guard:
        unit = _read_unit()
        kubelet = _running(unit)
        _validate(wanted[CONFIG_FLAG], wanted[BIN_DIR_FLAG], kubelet)
        if place := _place_of(wanted, unit, kubelet):
            say(f"already enabled: {place} gives the kubelet these flags")
            return Outcome(False, None, {"pid": kubelet.pid})
        present = _own_drop_in()
        text = _derived(unit, wanted)
        if present == text and not os.path.exists(TRIAL) and _has(kubelet, wanted):
            say(f"already enabled: {DROP_IN}; there is nothing to change")
            return Outcome(False, present, {"pid": kubelet.pid})
        _refuse_pending(unit, kubelet)
        expected = Expected(wanted, healthz_address(kubelet))
        if reason := why_unhealthy(unit.service, expected._replace(flags={})):
            raise CannotEnable(
                f"the kubelet is not healthy as it is: {reason}", "Repair it first, then try again."
            )
        if guard is None:
            say(f"{DROP_IN}: would be written; the kubelet would be restarted")
            return Outcome(True, text)
        keep = partial(_write, text)
        undo = partial(_write, present) if present else _remove
        done = _prove(guard, _Trial(text, expected, keep, undo), options, say)
        say(f"{DROP_IN}: written")
        return Outcome(True, text, done)


def disable(options: Options, say: Say) -> Outcome:
    """Take the drop-in away again. Raises as ``enable`` does."""
    require_systemd()
    with _guarded(options) as guard:
        present = _own_drop_in()
        if present is None and not os.path.exists(TRIAL):
            say(f"not enabled: there is no {DROP_IN}")
            return Outcome(False, None)
        service = show()
        if guard is None:
            say(f"{DROP_IN}: would be removed; the kubelet would be restarted")
            return Outcome(True, None)
        if service.load != "loaded":
            _remove()
            systemctl("daemon-reload")
            say(f"{DROP_IN}: removed; there is no {UNIT}")
            return Outcome(True, None)
        unit = _read_unit()
        kubelet = _kubelet_of(service)
        own = {setting.flag for setting in unit.flags}
        absent = {flag: None for flag in _FLAGS if flag not in own}
        expected = Expected(absent, healthz_address(kubelet) if kubelet else None)
        if kubelet is None or why_unhealthy(service, expected._replace(flags={})):
            # There is nothing to go back to: this is the way back.
            _remove()
            systemctl("daemon-reload")
            say(f"{DROP_IN}: removed; the kubelet was not healthy with it")
            _restart(options)
            return Outcome(True, None, _settled(expected, options))
        undo = partial(_write, present) if present else _remove
        text = drop_in(_command(unit.files), {})
        done = _prove(guard, _Trial(text, expected, _remove, undo), options, say)
        say(f"{DROP_IN}: removed")
        return Outcome(True, None, done)


# ---- the node as it is ---------------------------------------------------------------------------


def _own_drop_in() -> str | None:
    """The text of the drop-in, None without one. Raises CannotEnable when somebody else wrote it."""
    try:
        text = Path(DROP_IN).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotEnable(f"{DROP_IN}: {error.strerror}") from error
    if not is_written_by_enable(text):
        raise CannotEnable(
            f"{DROP_IN} was not written by enable, which leaves it alone",
            "Keep it as it is, or move what it sets to a drop-in of another name, and try again.",
        )
    return text


def _read_unit() -> _Unit:
    """The kubelet's unit. Raises CannotEnable when there is none that can be changed."""
    service = show()
    if service.load != "loaded":
        _refuse_missing(service)
    files = without_ours(read_unit(service))
    name = os.path.basename(DROP_IN)
    for file in files[1:]:
        if os.path.basename(file.path) > name and values([file], "ExecStart"):
            raise CannotEnable(
                f"{file.path} sets ExecStart=, and sorts after {name}",
                f"Rename it, so that it sorts before {name}.",
            )
    return _Unit(service, files, read_environment(files))


def _refuse_missing(service: Service) -> NoReturn:
    for name, units in _EMBEDDED.items():
        if unit := is_known(*units):
            raise CannotEnable(
                f"{name} runs the kubelet inside its own process ({unit}): there is no {UNIT}",
                f"Give the two flags to {name}, as its documentation says of kubelet arguments.",
            )
    running = find_kubelets(ask_version=False).kubelet
    if running:
        raise CannotEnable(
            f"the kubelet (pid {running.pid}) was not started by {UNIT}, which is {service.load}",
            "Put the two flags where it is started.",
        )
    raise CannotEnable(f"there is no {UNIT} here (systemd says: {service.load})")


def _kubelet_of(service: Service) -> Kubelet | None:
    """The unit's main process, proven or not; None when it is no kubelet."""
    found = find_kubelets(ask_version=True).kubelets
    return next((kubelet for kubelet in found if kubelet.pid == service.main_pid), None)


def _running(unit: _Unit) -> Kubelet:
    service = unit.service
    if not service.is_running:
        raise CannotEnable(
            f"the kubelet is not running: {UNIT} is {service.active} ({service.sub})",
            "Start it first; a change is judged by what it was before.",
        )
    kubelet = _kubelet_of(service)
    if kubelet is None:
        raise CannotEnable(
            f"the main process of {UNIT} (pid {service.main_pid}) is no kubelet that this program"
            " can see",
            "Run it on the node itself, not in a container. A wrapper in place of the kubelet needs"
            " the two flags where it starts it.",
        )
    if kubelet.replaceable:
        raise CannotEnable(
            f"others than root can replace the kubelet's program: {kubelet.replaceable}",
            judgements.ROOT_ONLY,
        )
    return kubelet


def _command(files: Sequence[UnitFile]) -> str:
    try:
        return command_of(files)
    except UnsupportedCommand as error:
        raise CannotEnable(
            f"{UNIT}: {error}",
            f"Add {' and '.join(_FLAGS)} to that command yourself, then restart the kubelet.",
        ) from error


def _derived(unit: _Unit, wanted: Mapping[str, str]) -> str:
    """The drop-in's text. Raises CannotEnable, also when the node sets other values itself."""
    command = _command(unit.files)
    for setting in unit.flags:
        if not _same(setting.value, wanted[setting.flag]):
            raise CannotEnable(
                f"{setting.path} already sets {setting.flag}={setting.value}, not"
                f" {wanted[setting.flag]}",
                "Add this program's entry to the config that the kubelet has, or take both flags out"
                f" of {setting.path}, and try again.",
            )
    return drop_in(command, wanted)


def _place_of(wanted: Mapping[str, str], unit: _Unit, kubelet: Kubelet) -> str | None:
    """The file of the node's own that gives the running kubelet these flags already."""
    found = {setting.flag: setting.path for setting in unit.flags}
    if set(found) != set(wanted) or not _has(kubelet, wanted):
        return None
    return None if os.path.exists(TRIAL) else found[CONFIG_FLAG]


def _has(kubelet: Kubelet, wanted: Mapping[str, str]) -> bool:
    return all(_same(kubelet.flag(flag) or "", value) for flag, value in wanted.items())


def _same(one: str, other: str) -> bool:
    return os.path.normpath(one) == os.path.normpath(other)


def _validate(config: str, bin_dir: str, kubelet: Kubelet) -> None:
    """Raise CannotEnable when the kubelet would not start with what it is to read, pulls would fail
    with it, or others than root could replace it.
    """
    files = node.read_config(config)
    if files.error:
        raise CannotEnable(
            f"{config}: {files.error}", "Run install first; `config` prints a config."
        )
    for finding in judge_files(files, bin_dir, kubelet.version):
        if finding.severity != "warning":
            raise CannotEnable(f"{config}: {finding.path}: {finding.message}", finding.hint)
    decoded = judgements.decoded(files)
    names = [provider.name for provider in decoded.providers] if decoded else []
    found: list[ConfigFiles | Executable] = [files, *node.look_at(bin_dir, names)]
    for each in found:
        if each.replaceable:
            raise CannotEnable(
                f"others than root can replace {each.path}: {each.replaceable}",
                judgements.ROOT_ONLY,
            )


def _refuse_pending(unit: _Unit, kubelet: Kubelet) -> None:
    """Raise CannotEnable when a restart would also put changes of others into effect: they would be
    taken for ours, and no rollback would undo them.
    """
    hint = (
        "Restart the kubelet and see that it comes up (systemctl daemon-reload; systemctl restart"
        " kubelet), then try again."
    )
    if unit.service.need_reload:
        raise CannotEnable(f"unit files of {UNIT} were changed and are not in effect yet", hint)
    paths = [file.path for file in (*unit.files, *unit.environment)]
    if path := kubelet.flag("--config"):
        paths.append(path)
    for path in paths:
        with suppress(OSError):
            if os.stat(path).st_mtime > kubelet.started + _SAME_START:
                raise CannotEnable(f"{path} was changed after the kubelet's start", hint)


# ---- the trial -----------------------------------------------------------------------------------


@contextmanager
def _guarded(options: Options) -> Iterator[Guard | None]:
    """Alone with the kubelet's unit; None for a dry run, which takes no lock and changes nothing."""
    if options.dry_run:
        yield None
        return
    os.umask(0o022)
    _on_signals(_end)
    with alone(options.longest) as guard:
        yield guard


def _end(number: int, _frame: object) -> NoReturn:
    raise Terminated(f"ended by {signal.Signals(number).name}")


def _on_signals(action: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, action)


def _prove(guard: Guard, trial: _Trial, options: Options, say: Say) -> dict[str, object]:
    """Restart the kubelet with the trial, watch it, keep the change. Returns what to tell of it."""
    before = kubelet_containers()
    started = time.time()
    guard.start(options.longest)
    try:
        _write(trial.text, TRIAL)
        systemctl("daemon-reload")
        _refuse_other_command(trial.text)
        say(f"restarting the kubelet, then watching it for {options.watch:g} s")
        _restart(options)
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
        raise KubeletUnhealthy("the kubelet was restarted by somebody else meanwhile")
    where = "healthz is off" if trial.expected.healthz is None else "healthz answers"
    say(f"the kubelet (pid {pid}) is healthy: {where}, {still} of {len(before)} containers run on")
    return {"pid": pid, "containers_before": len(before), "containers_after": still}


def _refuse_other_command(text: str) -> None:
    """Raise CannotEnable unless systemd has loaded the trial's command as the one that counts."""
    service = show()
    if service.load != "loaded" or _command(read_unit(service)) != _command([UnitFile("", text)]):
        raise CannotEnable(f"systemd does not take {TRIAL}: {UNIT} is {service.load}")


def _restart(options: Options) -> None:
    systemctl("reset-failed", UNIT)
    systemctl("restart", UNIT, timeout=options.timeout)


def _roll_back(
    guard: Guard,
    trial: _Trial,
    options: Options,
    started: float,
    error: BaseException,
    say: Say,
) -> NoReturn:
    _on_signals(signal.SIG_IGN)
    reason = error.message if isinstance(error, ProviderError) else str(error)
    words = journal(started, _JOURNAL_LINES)
    say(f"rolling back: {reason}")
    for line in words:
        say(f"  kubelet: {line}")
    try:
        with suppress(OSError):
            trial.undo()
        guard.roll_back(options.longest)
        _settled(trial.expected._replace(flags={}), options)
    except ProviderError as failure:
        raise KubeletUnhealthy(
            f"{reason}; and after the change was taken back: {failure.message}"
        ) from error
    errors = [line for line in words if _KLOG_ERROR.match(line)]
    said = "".join(f"; it said: {line}" for line in (errors or words)[-1:])
    raise RolledBack(f"the kubelet did not stay healthy: {reason}{said}") from error


def _settled(expected: Expected, options: Options) -> dict[str, object]:
    """Wait for a kubelet that starts. Raises KubeletUnhealthy."""
    try:
        return {"pid": wait_until_healthy(expected, options.timeout, watch=0)}
    except Unhealthy as error:
        raise KubeletUnhealthy(str(error)) from error


def _write(text: str, path: str = DROP_IN) -> None:
    make_folders(Path(path).parent)
    write_file(Path(path), text)


def _remove() -> None:
    path = Path(DROP_IN)
    path.unlink(missing_ok=True)
    if path.parent.exists():
        sync(path.parent)
