"""Judge where the kubelet's flags are set, and say how to set them. No I/O."""

import os
import re
import shlex
from collections.abc import Iterator
from typing import Final

from provider.commands.check.step import Step, failed, not_visible, ok, skipped, warning
from provider.commands.check.unit import Unit, assignments, command_line, effective, variables_of
from provider.commands.kubelet_config import PROVIDER_NAME
from provider.commands.node.files import BIN_DIR_FLAG, CONFIG_FLAG, OKE_CONF, OKE_INIT
from provider.commands.node.kubelet_unit import UNIT
from provider.commands.node.processes import Kubelet

KUBELET: Final = "kubelet"
UNIT_FILES: Final = "kubelet unit"
# Needs no escapes between double quotes in a shell.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:,;=@+<>*?(){}\[\] -]*", re.A)


def set_flags(bin_dir: str, config: str, unit: Unit) -> Iterator[str]:
    """How to set the flags on this node and on new nodes."""
    if unit.files:
        yield (
            "On this node, run this command. It restarts the kubelet with both flags, and removes them"
            " if the kubelet does not stay healthy. Containers continue to run:"
        )
        yield f"  {enable(bin_dir, config)}"
    else:
        yield f"This node has no {UNIT}: add both flags where the kubelet is started."
    flags = f"{BIN_DIR_FLAG}={bin_dir} {CONFIG_FLAG}={config}"
    if _PLAIN.fullmatch(flags):
        yield (
            "On new nodes, pass the flags in the node pool's init script. Write a space after"
            " --kubelet-extra-args, not =:"
        )
        yield f'  bash {OKE_INIT} --kubelet-extra-args "{flags}"'


def enable(bin_dir: str, config: str) -> str:
    """The command that sets both flags."""
    program = os.path.join(bin_dir, PROVIDER_NAME)  # sudo's PATH may lack /usr/local/bin
    return shlex.join(["sudo", program, "enable", "--config", config, "--bin-dir", bin_dir])


def restart(bin_dir: str, config: str) -> str:
    """The command that restarts the kubelet if the config is valid."""
    program = os.path.join(bin_dir, PROVIDER_NAME)
    validate = shlex.join([program, "config", "--validate", config, "--bin-dir", bin_dir])
    return " && ".join([validate, "systemctl daemon-reload", "systemctl restart kubelet"])


def judge_unit(unit: Unit, kubelet: Kubelet | None) -> Step:
    """Find out which file sets the flags, and whether a later file overrides it."""
    action = ", ".join(
        [*unit.files, *unit.environment_files, *([OKE_CONF] if unit.oke_conf else [])]
    )
    if unit.unreadable:
        result = f"{', '.join(unit.unreadable)}: this user cannot read it"
        return not_visible(UNIT_FILES, action, result)
    if not unit.files:
        return skipped(UNIT_FILES, "no-unit", f"{UNIT} has no readable files here")
    found = assignments(unit)
    in_effect = effective(found)
    command = command_line(unit)
    variables = variables_of(command)
    flags = [each for each in found if _names_flags(each.value)]
    effective_flags = [each for each in in_effect.values() if _names_flags(each.value)]
    has_flags = kubelet is not None and kubelet.flag(CONFIG_FLAG) is not None
    report = warning if has_flags else failed
    if _names_flags(command) or any(each.name in variables for each in effective_flags):
        if kubelet is None or has_flags:
            return ok(UNIT_FILES, action, "the unit sets the flags, and no file overrides them")
        path = effective_flags[0].path if effective_flags else UNIT
        return failed(
            UNIT_FILES,
            "unit-newer-than-kubelet",
            action,
            f"{path} sets the flags, but the running kubelet was started without them",
            "The kubelet reads its command line only when it starts. The step"
            f" {KUBELET!r} has the command.",
        )
    if effective_flags:
        lost = effective_flags[0]
        return report(
            UNIT_FILES,
            "flags-not-used",
            action,
            f"{lost.path} sets the flags in {lost.name}, which the kubelet's ExecStart= does not use",
            f"Set them in a variable that it uses: {', '.join(variables) or 'it uses none'}.",
        )
    if flags:
        lost = flags[-1]
        return report(
            UNIT_FILES,
            "flags-overridden",
            action,
            f"{lost.path} sets the flags in {lost.name}, but {in_effect[lost.name].path} sorts later"
            " and sets it without them",
            "Of files that set the same variable, systemd uses the last one by file name. Put all flags"
            " of the variable into the drop-in whose name sorts last, or use `enable` for the two flags."
            " To see the order:",
            "  systemctl cat kubelet",
        )
    if kubelet and not has_flags and unit.oke_conf is not None:
        if _names_flags(unit.oke_conf):
            return failed(
                UNIT_FILES,
                "flags-lost-after-oke-conf",
                action,
                f"{OKE_CONF} has the flags, but `oke bootstrap` wrote them to no file of {UNIT}",
                "To see why:",
                "  journalctl -u oke --no-pager -n 50",
            )
        result = f"no file sets the flags; {OKE_CONF} has none: the init script did not pass them"
        return ok(UNIT_FILES, action, result)
    return ok(UNIT_FILES, action, "no file sets the flags" + " or overrides them" * has_flags)


def _names_flags(text: str) -> bool:
    return CONFIG_FLAG in text or BIN_DIR_FLAG in text
