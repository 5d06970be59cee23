"""The ``enable`` and ``disable`` commands: decide what to change, try it, and keep it."""

import os
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from provider.commands.install.files import make_directories, sync, write_file
from provider.commands.install.paths import version_of_link
from provider.commands.kubelet_config import PROVIDER_NAME
from provider.commands.kubelet_service.health import Expected, healthz_address, why_unhealthy
from provider.commands.kubelet_service.systemd import require_systemd, show, systemctl
from provider.commands.kubelet_service.trial import (
    Options,
    Trial,
    guarded,
    restart,
    settle,
    try_out,
)
from provider.commands.kubelet_service.unit import (
    derive,
    file_with_flags,
    has_flags,
    kubelet_of,
    read_drop_in,
    read_kubelet_unit,
    refuse_other_flags,
    refuse_pending,
    running_kubelet,
    validate,
)
from provider.commands.node.files import BIN_DIR_FLAG, CONFIG_FLAG, USUAL_PREFIX
from provider.commands.node.kubelet_unit import DROP_IN, TRIAL, UNIT, drop_in, values
from provider.commands.outcome import Outcome, Say, inventoried
from provider.errors import CannotEnable

# The characters that have no special meaning in ExecStart=.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:,=@+-]+", re.ASCII)


@dataclass(slots=True)
class Switched(Outcome):
    """What a command did, or would do. ``drop_in`` is the text in effect, or None."""

    drop_in: str | None
    kubelet: dict[str, object] = field(default_factory=dict)

    @property
    def preview(self) -> str | None:
        """The new drop-in."""
        return self.drop_in if self.changed else None


def _flags(config: str, bin_dir: str) -> dict[str, str]:
    """The two flags with absolute paths. Raises CannotEnable for a path that needs quoting."""
    for path in (config, bin_dir):
        if not _PLAIN.fullmatch(path):
            raise CannotEnable(
                f"{path!r} needs quoting in a unit file",
                "Use a path of ASCII letters, digits and _./:,=@+- only.",
            )
    return {CONFIG_FLAG: config, BIN_DIR_FLAG: bin_dir}


def enable(config: str, bin_dir: str, options: Options, say: Say) -> Switched:
    """Add the flags with these values to the running kubelet.

    Raises CannotEnable if nothing was changed, RolledBack if the change was rolled back, and
    KubeletUnhealthy if the kubelet is unhealthy even then.
    """
    act = partial(_enable, config, bin_dir, options, say)
    if options.dry_run:
        return act()
    link = Path(bin_dir, PROVIDER_NAME)
    return inventoried(act, "enabled", partial(version_of_link, link, Path(USUAL_PREFIX)), say)


def _enable(config: str, bin_dir: str, options: Options, say: Say) -> Switched:
    wanted = _flags(config, bin_dir)
    require_systemd()
    with guarded(options) as guard:
        unit = read_kubelet_unit()
        kubelet = running_kubelet(unit)
        validate(wanted[CONFIG_FLAG], wanted[BIN_DIR_FLAG], kubelet)
        if file := file_with_flags(wanted, unit, kubelet):
            say(f"already enabled: {file} sets these flags")
            return Switched(False, None, {"pid": kubelet.pid})
        present = read_drop_in()
        text = derive(unit, wanted)
        if present is None and not os.path.exists(TRIAL):
            refuse_other_flags(wanted, kubelet)
        if present == text and not os.path.exists(TRIAL) and has_flags(kubelet, wanted):
            say(f"already enabled: {DROP_IN}; there is nothing to change")
            return Switched(False, present, {"pid": kubelet.pid})
        refuse_pending(unit, kubelet)
        expected = Expected(wanted, healthz_address(kubelet))
        if reason := why_unhealthy(unit.service, expected._replace(flags={})):
            raise CannotEnable(
                f"the kubelet is already unhealthy: {reason}", "Fix it first, then try again."
            )
        if guard is None:
            say(f"{DROP_IN}: would be written; the kubelet would be restarted")
            return Switched(True, text)
        keep = partial(_write, text)
        undo = partial(_write, present) if present else _remove
        result = try_out(guard, Trial(text, expected, keep, undo), options, say)
        say(f"{DROP_IN}: written")
        return Switched(True, text, result)


def disable(options: Options, say: Say) -> Switched:
    """Remove the drop-in of ``enable``. Raises the same errors as ``enable``."""
    require_systemd()
    with guarded(options) as guard:
        present = read_drop_in()
        if present is None and not os.path.exists(TRIAL):
            say(f"not enabled: there is no {DROP_IN}")
            return Switched(False, None)
        service = show()
        if guard is None:
            say(f"{DROP_IN}: would be removed; the kubelet would be restarted")
            return Switched(True, None)
        if service.load != "loaded":
            _remove()
            systemctl("daemon-reload")
            say(f"{DROP_IN}: removed; there is no {UNIT}")
            return Switched(True, None)
        unit = read_kubelet_unit()
        kubelet = kubelet_of(service)
        expected = Expected({}, healthz_address(kubelet) if kubelet else None)
        if kubelet is None or why_unhealthy(service, expected):
            # No trial: a rollback would restore the drop-in of an unhealthy kubelet.
            _remove()
            systemctl("daemon-reload")
            say(f"{DROP_IN}: removed; the kubelet was not healthy with it")
            restart(options)
            return Switched(True, None, settle(expected, options))
        undo = partial(_write, present) if present else _remove
        text = drop_in(values(unit.files, "ExecStart"), {})
        result = try_out(guard, Trial(text, expected, _remove, undo), options, say)
        say(f"{DROP_IN}: removed")
        return Switched(True, None, result)


def _write(text: str) -> None:
    make_directories(Path(DROP_IN).parent)
    write_file(Path(DROP_IN), text)


def _remove() -> None:
    path = Path(DROP_IN)
    path.unlink(missing_ok=True)
    if path.parent.exists():
        sync(path.parent)
