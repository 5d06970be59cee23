"""Where the kubelet's flags come from, what takes them away, and how to set them. No I/O."""

import os
import re
import shlex
from collections.abc import Iterator
from typing import Final, NamedTuple

from provider.check.node import BIN_DIR_FLAG, CONFIG_FLAG, Kubelet
from provider.check.step import Step, failed, not_visible, ok, skipped, warning
from provider.check.unit import (
    DROP_IN,
    DROP_INS,
    OKE_CONF,
    UNIT,
    Unit,
    assignments,
    command_line,
    effective,
    variables_of,
)
from provider.kubelet_config import PROVIDER_NAME

KUBELET: Final = "kubelet"
UNIT_FILES: Final = "kubelet unit"
EXTRA_ARGS: Final = "KUBELET_EXTRA_ARGS"
# What needs no quoting in a unit file, nor within double quotes in a shell.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:,;=@+<>*?(){}\[\] -]*", re.A)


def set_flags(bin_dir: str, config: str, unit: Unit) -> Iterator[str]:
    """What to do on this node, and for new nodes."""
    flags = f"{BIN_DIR_FLAG}={bin_dir} {CONFIG_FLAG}={config}"
    plain = _PLAIN.fullmatch(flags) is not None
    extra = _extra_args(unit)
    if extra is None or not plain:
        yield (
            "On this node: add both flags where the kubelet's command line comes from, then run"
            " systemctl daemon-reload and systemctl restart kubelet. To see where:"
        )
        yield "  systemctl cat kubelet"
    elif extra.environment_file:
        yield (
            f"On this node: add both flags to {EXTRA_ARGS} in {extra.environment_file}, which wins"
            " over drop-ins, then:"
        )
        yield f"  {restart(bin_dir, config)}"
    elif all(flag in extra.value for flag in (CONFIG_FLAG, BIN_DIR_FLAG)):
        yield f"On this node: {EXTRA_ARGS} has both flags already. Restart the kubelet:"
        yield f"  {restart(bin_dir, config)}"
    else:
        value = " ".join([*_without_flags(extra.value), flags])
        yield (
            f"On this node: set {EXTRA_ARGS} in a drop-in that sorts last. It keeps the flags that"
            " are set there now. Only the kubelet restarts; containers go on:"
        )
        write = (
            f"mkdir -p {DROP_INS} && printf '[Service]\\nEnvironment=\"{EXTRA_ARGS}=%s\"\\n'"
            f" {shlex.quote(value)} >{DROP_IN}"
        )
        yield f"  {restart(bin_dir, config, write)}"
    if plain:
        yield (
            "For new nodes: pass the flags in the node pool's init script, with a space after"
            " --kubelet-extra-args and never =:"
        )
        yield f'  bash /var/run/oke-init.sh --kubelet-extra-args "{flags}"'


def restart(bin_dir: str, config: str, *before: str) -> str:
    """The command that restarts the kubelet, after the commands ``before``.

    It does none of that unless the kubelet would start: one that does not start takes its node away.
    """
    program = os.path.join(bin_dir, PROVIDER_NAME)
    gate = shlex.join([program, "config", "--validate", config, "--bin-dir", bin_dir])
    return " && ".join([gate, *before, "systemctl daemon-reload", "systemctl restart kubelet"])


class _ExtraArgs(NamedTuple):
    """The variable of the kubelet's unit that takes extra flags, and the file that sets it for good."""

    value: str
    environment_file: str | None


def _extra_args(unit: Unit) -> _ExtraArgs | None:
    """None when the unit has no such variable, or its value is not known or cannot be quoted here."""
    if unit.unreadable or EXTRA_ARGS not in variables_of(command_line(unit)):
        return None
    found = effective(assignments(unit)).get(EXTRA_ARGS)
    if found is None:
        return _ExtraArgs("", None)
    if found.path in unit.environment_files:
        return _ExtraArgs(found.value, found.path)
    return _ExtraArgs(found.value, None) if _PLAIN.fullmatch(found.value) else None


def _without_flags(value: str) -> Iterator[str]:
    """The flags of a command line except those that name the provider."""
    words = iter(value.split())
    for word in words:
        if word in (CONFIG_FLAG, BIN_DIR_FLAG):
            next(words, None)
        elif word.partition("=")[0] not in (CONFIG_FLAG, BIN_DIR_FLAG):
            yield word


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
            f" one drop-in whose name sorts last, such as {os.path.basename(DROP_IN)}. To see the"
            " order:",
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
