"""Find this program and its config where ``install`` put them."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from provider.commands.install.record import Record, read_record, record_path
from provider.commands.kubelet_config import ALIAS, PROVIDER_NAME
from provider.commands.node.files import USUAL_BIN_DIR, USUAL_CONFIG, USUAL_PREFIX, look_at
from provider.errors import CannotInstall
from provider.frozen import folder
from provider.root_only import who_can_replace


@dataclass(frozen=True, slots=True)
class Installed:
    """The values for the kubelet's flags on this node; ``config`` is None if there is no config."""

    bin_dir: str
    config: str | None


def find_installed() -> Installed | None:
    """Find the installed program, by the records of ``install`` and in its default bin dir."""
    records = [_record(prefix) for prefix in _prefixes()]
    bin_dirs = [*(path for record in records for path in record.bin_dirs), USUAL_BIN_DIR]
    configs = [path for record in records for path, _ in (*record.configs, *record.merged)]
    configs.append(USUAL_CONFIG)
    config = next(filter(os.path.isfile, configs), None)
    for bin_dir in bin_dirs:
        programs = look_at(bin_dir, (PROVIDER_NAME, ALIAS))
        if any(program.state == "ok" and not program.replaceable for program in programs):
            return Installed(bin_dir, config)
    return None


def _prefixes() -> list[str]:
    """The prefix of the running installation, and the default prefix."""
    running = folder()
    return [*([os.path.dirname(running)] if running else ()), USUAL_PREFIX]


def _record(prefix: str) -> Record:
    path = Path(prefix)
    try:
        # The one-file form runs in a folder below /tmp, where others can write.
        return Record() if who_can_replace(str(record_path(path))) else read_record(path)
    except (OSError, CannotInstall):
        return Record()


def this_program() -> str:
    """The command that starts this program: its path, or its name if PATH has it."""
    typed = sys.argv[0]
    return os.path.abspath(typed) if "/" in typed else typed


def where(installed: Installed | None) -> tuple[str, ...]:
    """Say where the program is on this node, and what is missing."""
    if installed is None:
        return (
            f"The program is not installed on this node: {USUAL_BIN_DIR} has no {PROVIDER_NAME}."
            " First install it from the standalone binary:",
            f"  {shlex.quote(this_program())} install",
        )
    if installed.config is None:
        program = shlex.quote(os.path.join(installed.bin_dir, PROVIDER_NAME))
        return (
            f"The program on this node is in {installed.bin_dir}, without a config. First write one:",
            f"  {program} config >{USUAL_CONFIG}",
        )
    return (
        f"The program on this node is in {installed.bin_dir}, and its config is {installed.config}.",
    )
