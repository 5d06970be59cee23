"""Where this program and its config are on this node, as ``install`` noted it."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider.commands.install.record import Record, read_record, record_path
from provider.commands.kubelet_config import ALIAS, PROVIDER_NAME
from provider.commands.node.files import USUAL_BIN_DIR, USUAL_CONFIG, look_at
from provider.errors import CannotInstall
from provider.frozen import folder
from provider.root_only import who_can_replace

_PREFIX: Final = "/usr/local/lib/oke-credential-provider"


@dataclass(frozen=True, slots=True)
class Installed:
    """The values that the kubelet's flags need here; ``config`` is None where no config was found."""

    bin_dir: str
    config: str | None


def find_installed() -> Installed | None:
    """What ``install`` put on this node; None when the program is in none of its places."""
    records = [_record(prefix) for prefix in _prefixes()]
    bin_dirs = [*(path for record in records for path in record.bin_dirs), USUAL_BIN_DIR]
    configs = [*(path for record in records for path, _ in record.configs), USUAL_CONFIG]
    config = next(filter(os.path.isfile, configs), None)
    for bin_dir in bin_dirs:
        programs = look_at(bin_dir, (PROVIDER_NAME, ALIAS))
        if any(found.state == "ok" and not found.replaceable for found in programs):
            return Installed(bin_dir, config)
    return None


def _prefixes() -> list[str]:
    """The default prefix, and that of the installation that runs now."""
    running = folder()
    return [*([os.path.dirname(running)] if running else ()), _PREFIX]


def _record(prefix: str) -> Record:
    path = Path(prefix)
    try:
        # The one-file form runs in a folder of /tmp, where others can write, too.
        return Record() if who_can_replace(str(record_path(path))) else read_record(path)
    except (OSError, CannotInstall):
        return Record()


def this_program() -> str:
    """How to start what runs now, as typed: by its path, or by its name where PATH has it."""
    typed = sys.argv[0]
    return os.path.abspath(typed) if "/" in typed else typed


def where(installed: Installed | None) -> tuple[str, ...]:
    """Where the program is on this node, and what is still missing."""
    if installed is None:
        return (
            f"The program is not installed on this node: {USUAL_BIN_DIR} has no {PROVIDER_NAME}."
            " Install it first, from the standalone binary:",
            f"  {shlex.quote(this_program())} install",
        )
    if installed.config is None:
        return (
            f"On this node the program is in {installed.bin_dir}, and has no config. Write one first:",
            f"  {shlex.quote(os.path.join(installed.bin_dir, PROVIDER_NAME))} config >{USUAL_CONFIG}",
        )
    return (
        f"On this node the program is in {installed.bin_dir}, and its config is {installed.config}.",
    )
