"""Read the kubelet's systemd unit, and find the variables and the command that are in effect."""

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from provider.commands.node.files import OKE_CONF, read_texts
from provider.commands.node.kubelet_unit import UNIT, UnitFile, environment_files, settings, values

# systemd.unit(5): of files with the same name, the one in the first folder is used.
_FOLDERS: Final = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
_REFERENCE: Final = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")


@dataclass(frozen=True, slots=True)
class Unit:
    """The texts of the kubelet's unit and its drop-ins by path, in the order in which they apply.

    ``environment_files`` are the files that EnvironmentFile= names. ``unreadable`` are the files that
    this user cannot read.
    """

    files: Mapping[str, str]
    environment_files: Mapping[str, str]
    oke_conf: str | None = None
    unreadable: tuple[str, ...] = ()

    @property
    def unit_files(self) -> list[UnitFile]:
        """The unit and its drop-ins."""
        return [UnitFile(path, text) for path, text in self.files.items()]


@dataclass(frozen=True, slots=True)
class Assignment:
    """A variable of the unit, and the file that sets it."""

    path: str
    name: str
    value: str


def read_unit() -> Unit:
    """Read the kubelet's unit as systemd does, and oke.conf."""
    main = next((f for f in (f"{folder}/{UNIT}" for folder in _FOLDERS) if os.path.isfile(f)), None)
    drop_ins: dict[str, str] = {}
    for folder in reversed(_FOLDERS):
        try:
            names = os.listdir(f"{folder}/{UNIT}.d")
        except OSError:
            continue
        drop_ins |= {n: f"{folder}/{UNIT}.d/{n}" for n in names if n.endswith(".conf")}
    paths = [*([main] if main else ()), *(drop_ins[name] for name in sorted(drop_ins))]
    unit = Unit(read_texts(paths), {}, read_texts([OKE_CONF]).get(OKE_CONF))
    variables = read_texts(filter(os.path.isabs, environment_files(unit.unit_files)))
    unreadable = tuple(p for p in (*paths, *variables) if not os.access(p, os.R_OK))
    return replace(unit, environment_files=variables, unreadable=unreadable)


def assignments(unit: Unit) -> list[Assignment]:
    """All assignments of the unit in systemd's order: the last one of a variable is in effect.

    EnvironmentFile= overrides Environment= (systemd.exec(5)).
    """
    found: list[Assignment] = []
    for path, value in settings(unit.unit_files, "Environment"):
        if not value:  # an empty value removes all earlier variables
            found += [Assignment(path, name, "") for name in effective(found)]
        found += [Assignment(path, *pair) for pair in _pairs(value)]
    for path, text in unit.environment_files.items():
        for line in text.splitlines():
            if not line.lstrip().startswith(("#", ";")):
                name, equals, value = line.strip().partition("=")
                if equals:
                    found.append(Assignment(path, name.strip(), _unquoted(value.strip())))
    return found


def effective(found: Sequence[Assignment]) -> dict[str, Assignment]:
    """The last assignment of each variable."""
    return {each.name: each for each in found}


def command_line(unit: Unit) -> str:
    """The ExecStart= that is in effect; "" if no file has one."""
    return (values(unit.unit_files, "ExecStart") or [""])[-1]


def variables_of(command: str) -> list[str]:
    """The variables in a command line."""
    return _REFERENCE.findall(command)


def _pairs(value: str) -> Iterator[tuple[str, str]]:
    try:
        words = shlex.split(value)
    except ValueError:
        return
    for word in words:
        name, equals, text = word.partition("=")
        if equals:
            yield name, text


def _unquoted(value: str) -> str:
    try:
        return " ".join(shlex.split(value)) if value[:1] in ("'", '"') else value
    except ValueError:
        return value
