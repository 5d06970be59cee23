"""Where the kubelet's flags come from, what takes them away, and how to set them. No I/O."""

import os
import re
import shlex
from collections.abc import Iterator
from typing import Final

from provider.commands.check.step import Step, failed, not_visible, ok, skipped, warning
from provider.commands.check.unit import (
    OKE_CONF,
    Unit,
    assignments,
    command_line,
    effective,
    variables_of,
)
from provider.commands.kubelet_config import PROVIDER_NAME
from provider.commands.node.files import BIN_DIR_FLAG, CONFIG_FLAG
from provider.commands.node.kubelet_unit import UNIT
from provider.commands.node.processes import Kubelet

KUBELET: Final = "kubelet"
UNIT_FILES: Final = "kubelet unit"
# What needs no quoting within double quotes in a shell.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:,;=@+<>*?(){}\[\] -]*", re.A)


def set_flags(bin_dir: str, config: str, unit: Unit) -> Iterator[str]:
    """What to do on this node, and for new nodes."""
    if unit.files:
        yield (
            "On this node: this restarts the kubelet with both flags, and takes them away again if it"
            " does not stay healthy. Containers run on:"
        )
        yield f"  {enable(bin_dir, config)}"
    else:
        yield f"On this node, which has no {UNIT}: add both flags where the kubelet is started."
    flags = f"{BIN_DIR_FLAG}={bin_dir} {CONFIG_FLAG}={config}"
    if _PLAIN.fullmatch(flags):
        yield (
            "For new nodes: pass the flags in the node pool's init script, with a space after"
            " --kubelet-extra-args and never =:"
        )
        yield f'  bash /var/run/oke-init.sh --kubelet-extra-args "{flags}"'


def enable(bin_dir: str, config: str) -> str:
    """The command that gives the kubelet both flags."""
    program = os.path.join(bin_dir, PROVIDER_NAME)  # PATH under sudo may lack /usr/local/bin
    return shlex.join(["sudo", program, "enable", "--config", config, "--bin-dir", bin_dir])


def restart(bin_dir: str, config: str) -> str:
    """The command that restarts the kubelet, if it would start: else its node would be lost."""
    program = os.path.join(bin_dir, PROVIDER_NAME)
    gate = shlex.join([program, "config", "--validate", config, "--bin-dir", bin_dir])
    return " && ".join([gate, "systemctl daemon-reload", "systemctl restart kubelet"])


def judge_unit(unit: Unit, kubelet: Kubelet | None) -> Step:
    """Where do the flags come from, and does a file that systemd reads later drop them?"""
    tried = ", ".join(
        [*unit.files, *unit.environment_files, *([OKE_CONF] if unit.oke_conf else [])]
    )
    if unit.unreadable:
        came = f"{', '.join(unit.unreadable)}: not readable by this user"
        return not_visible(UNIT_FILES, tried, came, "Run it as root.")
    if not unit.files:
        return skipped(UNIT_FILES, "no-unit", f"{UNIT} has no files that can be read here")
    found = assignments(unit)
    command = command_line(unit)
    used = variables_of(command)
    given = [each for each in found if _names_flags(each.value)]
    counts = [each for each in effective(found).values() if _names_flags(each.value)]
    has_flags = kubelet is not None and kubelet.flag(CONFIG_FLAG) is not None
    report = warning if has_flags else failed
    if _names_flags(command) or any(each.name in used for each in counts):
        if kubelet is None or has_flags:
            return ok(UNIT_FILES, tried, "the flags are set, and no file takes them away")
        return failed(
            UNIT_FILES,
            "unit-newer-than-kubelet",
            tried,
            f"{counts[0].path if counts else UNIT} sets the flags, and the running kubelet was"
            " started without them",
            f"The kubelet reads its command line when it starts. The step {KUBELET!r} has the command.",
        )
    if counts:
        lost = counts[0]
        return report(
            UNIT_FILES,
            "flags-not-used",
            tried,
            f"{lost.path} sets the flags in {lost.name}, which the kubelet's ExecStart does not name",
            f"Set them in a variable that it names: {', '.join(used) or 'it names none'}.",
        )
    if given:
        lost = given[-1]
        winner = effective(found)[lost.name].path
        return report(
            UNIT_FILES,
            "flags-overridden",
            tried,
            f"{lost.path} sets the flags in {lost.name}, but {winner} sorts later and sets it without"
            " them",
            "The last file wins, in the order of the file names. Put all flags of the variable into"
            " one drop-in whose name sorts last, or leave the two to `enable`. To see the order:",
            "  systemctl cat kubelet",
        )
    if kubelet and not has_flags and unit.oke_conf is not None:
        if _names_flags(unit.oke_conf):
            return failed(
                UNIT_FILES,
                "flags-lost-after-oke-conf",
                tried,
                f"{OKE_CONF} has the flags, and no file of {UNIT} has them: `oke bootstrap` did not"
                " write them",
                "Why it did not:",
                "  journalctl -u oke --no-pager -n 50",
            )
        came = f"no file sets the flags; {OKE_CONF} has none, so the init script did not pass them"
        return ok(UNIT_FILES, tried, came)
    return ok(UNIT_FILES, tried, "no file sets the flags" + (", nor takes them away" * has_flags))


def _names_flags(text: str) -> bool:
    return CONFIG_FLAG in text or BIN_DIR_FLAG in text
