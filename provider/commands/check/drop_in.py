"""Judge the drop-in of ``enable``: whether it is in effect and up to date. No I/O."""

from collections.abc import Iterator
from typing import Final

from provider.commands.check.flags import enable
from provider.commands.check.step import Step, failed, ok, warning
from provider.commands.check.unit import Unit
from provider.commands.node.files import BIN_DIR_FLAG, CONFIG_FLAG, USUAL_BIN_DIR, USUAL_CONFIG
from provider.commands.node.kubelet_unit import (
    DROP_IN,
    TRIAL,
    UnitFile,
    UnsupportedCommand,
    command_of,
    flags_in,
    is_written_by_enable,
    without_ours,
)
from provider.commands.node.processes import Kubelet

_NAME: Final = "drop-in"


def judge_drop_in(unit: Unit, kubelet: Kubelet | None) -> Iterator[Step]:
    """One step, or none without a drop-in of ``enable``."""
    text = unit.files.get(DROP_IN, "")
    if TRIAL in unit.files:
        yield warning(
            _NAME,
            "on-trial",
            TRIAL,
            "enable or disable is running on this node and watches the kubelet",
            "Wait until it ends, then run the check again.",
        )
    elif is_written_by_enable(text):
        yield _judge(text, unit, kubelet)


def _judge(text: str, unit: Unit, kubelet: Kubelet | None) -> Step:
    ours = [UnitFile(DROP_IN, text)]
    flags = {flag: value for flag, value, _ in flags_in(ours)}
    command = enable(flags.get(BIN_DIR_FLAG, USUAL_BIN_DIR), flags.get(CONFIG_FLAG, USUAL_CONFIG))
    if kubelet and any(kubelet.flag(flag) != value for flag, value in flags.items()):
        return failed(
            _NAME,
            "drop-in-not-in-effect",
            DROP_IN,
            "it sets both flags, but the running kubelet was started without them",
            "To put it into effect, with a rollback if the kubelet fails:",
            f"  sudo systemctl daemon-reload && {command}",
        )
    others = without_ours(unit.unit_files)
    try:
        outdated = not command_of(ours).startswith(f"{command_of(others)} ")
    except UnsupportedCommand:
        outdated = True
    if outdated:
        return warning(
            _NAME,
            "drop-in-outdated",
            DROP_IN,
            "it hides the unit's ExecStart=, which was changed after enable",
            "To write the drop-in again from the current unit:",
            f"  {command}",
        )
    return ok(_NAME, DROP_IN, "it repeats the unit's own command and adds both flags")
