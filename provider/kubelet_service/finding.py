"""What ``check`` says of the drop-in that ``enable`` wrote."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from provider.check.node import Kubelet
from provider.check.step import Step, failed, ok, warning
from provider.errors import CannotEnable
from provider.kubelet_config import PROVIDER_NAME
from provider.kubelet_service.systemd import read_unit, show
from provider.kubelet_service.unit import (
    DROP_IN,
    TRIAL,
    UnitFile,
    UnsupportedCommand,
    command_of,
    flags_in,
    is_written_by_enable,
    without_ours,
)

_NAME: Final = "drop-in"


class DropIn(NamedTuple):
    """What is there. ``command``: the unit's without it; None when it could not be read."""

    text: str | None
    on_trial: bool
    command: str | None


def look_at_drop_in() -> DropIn:
    """Read it, and the unit around it."""
    try:
        text = Path(DROP_IN).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = None
    if text is None or not is_written_by_enable(text):
        return DropIn(None, os.path.exists(TRIAL), None)
    try:
        command = command_of(without_ours(read_unit(show())))
    except (CannotEnable, UnsupportedCommand, OSError):
        command = None
    return DropIn(text, os.path.exists(TRIAL), command)


def judge_drop_in(found: DropIn, kubelet: Kubelet | None) -> Iterator[Step]:
    """Is it in effect, and still right? No step where ``enable`` left nothing."""
    if found.on_trial:
        yield warning(
            _NAME,
            "on-trial",
            TRIAL,
            "enable or disable runs on this node now, and watches the kubelet",
            "Wait until it has ended, and check again.",
        )
    if found.text is None:
        return
    ours = [UnitFile(DROP_IN, found.text)]
    flags = {setting.flag: setting.value for setting in flags_in(ours)}
    if kubelet and any(kubelet.flag(flag) != value for flag, value in flags.items()):
        yield failed(
            _NAME,
            "drop-in-not-in-effect",
            DROP_IN,
            "it gives the kubelet both flags, and the running kubelet was started without them",
            "To put it into effect, with a way back:",
            f"  sudo systemctl daemon-reload && sudo {PROVIDER_NAME} enable",
        )
    elif found.command and not command_of(ours).startswith(f"{found.command} "):
        yield warning(
            _NAME,
            "drop-in-outdated",
            DROP_IN,
            "it hides another ExecStart= of the unit, which was changed after enable",
            "To derive it again from the unit as it is now:",
            f"  sudo {PROVIDER_NAME} enable",
        )
    else:
        came = "enable gave the kubelet both flags; the rest is the unit's own command"
        yield ok(_NAME, DROP_IN, came)
