"""The kubelet's unit and process before a change, and the reasons to refuse a change."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from provider.commands.check import kubelet as judgements
from provider.commands.check.validate import judge_files
from provider.commands.kubelet_service.systemd import (
    Service,
    is_known,
    read_environment,
    read_unit,
    show,
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
from provider.errors import CannotEnable

FLAGS: Final = (CONFIG_FLAG, BIN_DIR_FLAG)
# Files that were written this many seconds after the kubelet's start belong to the same boot.
_SAME_START: Final = 60.0
# Distributions that run the kubelet inside their own process, and their units.
_EMBEDDED: Final = {
    "k3s": ("k3s.service", "k3s-agent.service"),
    "rke2": ("rke2-server.service", "rke2-agent.service"),
    "k0s": ("k0scontroller.service", "k0sworker.service"),
    "MicroK8s": ("snap.microk8s.daemon-kubelite.service",),
}


@dataclass(frozen=True, slots=True)
class KubeletUnit:
    """The kubelet's unit: the node's own files, without those of ``enable``."""

    service: Service
    files: Sequence[UnitFile]
    environment: Sequence[UnitFile]

    @property
    def flags(self) -> list[FlagSetting]:
        """Each setting of one of the two flags."""
        return flags_in([*self.files, *self.environment])


def read_drop_in() -> str | None:
    """The text of enable's drop-in, None if there is none. Raises CannotEnable if it is not enable's."""
    try:
        text = Path(DROP_IN).read_text(encoding="utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CannotEnable(f"{DROP_IN}: {error.strerror}") from error
    if not is_written_by_enable(text):
        raise CannotEnable(
            f"{DROP_IN} was not written by enable, so it is not changed",
            "Keep it, or move its settings to a drop-in with another name, and try again.",
        )
    return text


def read_kubelet_unit() -> KubeletUnit:
    """Read the unit. Raises CannotEnable if there is none."""
    service = show()
    if service.load != "loaded":
        _refuse_missing(service)
    files = without_ours(read_unit(service))
    return KubeletUnit(service, files, read_environment(files))


def _refuse_missing(service: Service) -> NoReturn:
    for name, units in _EMBEDDED.items():
        if unit := is_known(*units):
            raise CannotEnable(
                f"{name} runs the kubelet inside its own process ({unit}): there is no {UNIT}",
                f"Add the two flags to the kubelet arguments of {name}; see its documentation.",
            )
    running = find_kubelets(ask_version=False).kubelet
    if running:
        raise CannotEnable(
            f"the kubelet (pid {running.pid}) was not started by {UNIT}, which is {service.load}",
            "Add the two flags where the kubelet is started.",
        )
    raise CannotEnable(f"there is no {UNIT} here (systemd says: {service.load})")


def kubelet_of(service: Service) -> Kubelet | None:
    """The unit's main process, proven or not; None if it is not a kubelet."""
    found = find_kubelets(ask_version=True).kubelets
    return next((kubelet for kubelet in found if kubelet.pid == service.main_pid), None)


def running_kubelet(unit: KubeletUnit) -> Kubelet:
    """The unit's kubelet. Raises CannotEnable if it does not run or cannot be trusted."""
    service = unit.service
    if not service.is_running:
        raise CannotEnable(
            f"the kubelet is not running: {UNIT} is {service.active} ({service.sub})",
            "Start it first: its health before and after the change is compared.",
        )
    kubelet = kubelet_of(service)
    if kubelet is None:
        raise CannotEnable(
            f"the main process of {UNIT} (pid {service.main_pid}) is not a kubelet that this program"
            " can inspect",
            "Run this command on the node, not in a container. If a wrapper starts the kubelet, add the"
            " two flags to the wrapper.",
        )
    if kubelet.replaceable:
        raise CannotEnable(
            f"users other than root can replace the kubelet's executable: {kubelet.replaceable}",
            judgements.ROOT_ONLY,
        )
    return kubelet


def _command(files: Sequence[UnitFile]) -> str:
    """The unit's ExecStart. Raises CannotEnable if flags cannot be added to it."""
    try:
        return command_of(files)
    except UnsupportedCommand as error:
        raise CannotEnable(
            f"{UNIT}: {error}",
            f"Add {' and '.join(FLAGS)} to that command, then restart the kubelet.",
        ) from error


def derive(unit: KubeletUnit, wanted: Mapping[str, str]) -> str:
    """The text of the drop-in. Raises CannotEnable, also if the node sets other values."""
    name = os.path.basename(DROP_IN)
    for file in unit.files[1:]:
        if os.path.basename(file.path) > name and values([file], "ExecStart"):
            raise CannotEnable(
                f"{file.path} sets ExecStart= and sorts after {name}",
                f"Rename it so that it sorts before {name}.",
            )
    command = _command(unit.files)
    for setting in unit.flags:
        if not _is_same_path(setting.value, wanted[setting.flag]):
            raise CannotEnable(
                f"{setting.path} already sets {setting.flag}={setting.value}, not"
                f" {wanted[setting.flag]}",
                "Add this program's entry to the kubelet's config, or remove both flags from"
                f" {setting.path}, and try again.",
            )
    return drop_in([command], wanted)


def file_with_flags(wanted: Mapping[str, str], unit: KubeletUnit, kubelet: Kubelet) -> str | None:
    """The node's own file that already sets these flags of the running kubelet."""
    found = {setting.flag: setting.path for setting in unit.flags}
    if set(found) != set(wanted) or not has_flags(kubelet, wanted):
        return None
    return None if os.path.exists(TRIAL) else found[CONFIG_FLAG]


def refuse_other_flags(wanted: Mapping[str, str], kubelet: Kubelet) -> None:
    """Raise CannotEnable if the kubelet has other values, whatever sets them: a variable can be a part of a
    flag.
    """
    for flag, value in wanted.items():
        given = kubelet.flag(flag)
        if given is not None and not _is_same_path(given, value):
            raise CannotEnable(
                f"the kubelet already runs with {flag}={given}, not {value}",
                "Add this program's entry to the kubelet's config, or remove both flags where they are set,"
                " restart the kubelet, and try again.",
            )


def has_flags(kubelet: Kubelet, wanted: Mapping[str, str]) -> bool:
    """True if the kubelet runs with these flags."""
    return all(_is_same_path(kubelet.flag(flag) or "", value) for flag, value in wanted.items())


def _is_same_path(one: str, other: str) -> bool:
    return os.path.normpath(one) == os.path.normpath(other)


def validate(config: str, bin_dir: str, kubelet: Kubelet) -> None:
    """Raise CannotEnable if the kubelet would not start with the config and the programs, if pulls would
    fail, or if users other than root can replace one of the files.
    """
    files = node.read_config(config)
    if files.error:
        raise CannotEnable(
            f"{config}: {files.error}", "Run install first. The command config prints a config."
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
                f"users other than root can replace {each.path}: {each.replaceable}",
                judgements.ROOT_ONLY,
            )


def refuse_pending(unit: KubeletUnit, kubelet: Kubelet) -> None:
    """Raise CannotEnable if a restart would also apply other changes: the trial would blame or credit
    this change for them, and no rollback would undo them.
    """
    hint = (
        "Restart the kubelet and check that it becomes healthy (systemctl daemon-reload; systemctl"
        " restart kubelet), then try again."
    )
    if unit.service.need_reload:
        raise CannotEnable(f"unit files of {UNIT} were changed and are not in effect yet", hint)
    paths = [file.path for file in (*unit.files, *unit.environment)]
    if path := kubelet.flag("--config"):
        paths.append(path)
    for path in paths:
        with suppress(OSError):
            if os.stat(path).st_mtime > kubelet.started + _SAME_START:
                raise CannotEnable(f"{path} was changed after the kubelet started", hint)
