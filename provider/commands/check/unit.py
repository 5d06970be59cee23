"""Where the kubelet's flags are set on the node, and which drop-in wins: systemd's unit, oke.conf.

``read_unit`` reads the files; all else is pure.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from provider.commands.node.kubelet_unit import UNIT, UnitFile, settings

# Oracle's oke-install.sh writes it, and oke.service passes it to `oke bootstrap`.
OKE_CONF: Final = "/etc/oke/oke.conf"
# systemd.unit(5): the first folder that has a file of a name provides it.
_FOLDERS: Final = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
)
_MAX_BYTES: Final = 1 << 20
_REFERENCE: Final = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")


@dataclass(frozen=True, slots=True)
class Unit:
    """The kubelet's unit and its drop-ins, path to text, in the order in which systemd applies them.

    ``environment_files`` are the files of variables that these name. ``unreadable`` are files of either
    kind that this user may not read.
    """

    files: Mapping[str, str]
    environment_files: Mapping[str, str]
    oke_conf: str | None = None
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Assignment:
    """A variable of the kubelet's unit, and the file that sets it."""

    path: str
    name: str
    value: str


def read_unit() -> Unit:
    """Read what systemd reads for the kubelet, and oke.conf."""
    main = next((f for f in (f"{folder}/{UNIT}" for folder in _FOLDERS) if os.path.isfile(f)), None)
    drop_ins: dict[str, str] = {}
    for folder in reversed(_FOLDERS):
        try:
            names = os.listdir(f"{folder}/{UNIT}.d")
        except OSError:
            continue
        drop_ins |= {n: f"{folder}/{UNIT}.d/{n}" for n in names if n.endswith(".conf")}
    paths = [*([main] if main else ()), *(drop_ins[name] for name in sorted(drop_ins))]
    files = _texts(paths)
    named = (value.removeprefix("-") for _, value in _settings(files, "EnvironmentFile"))
    variables = _texts(path for path in named if os.path.isabs(path))
    unreadable = tuple(p for p in (*paths, *variables) if not os.access(p, os.R_OK))
    return Unit(files, variables, _texts([OKE_CONF]).get(OKE_CONF), unreadable)


def _texts(paths: Iterable[str]) -> dict[str, str]:
    """The files that there are; one that cannot be read is empty."""
    texts = {}
    for path in paths:
        try:
            with open(path, "rb") as file:
                texts[path] = file.read(_MAX_BYTES).decode("utf-8", "replace")
        except FileNotFoundError:
            continue
        except OSError:
            texts[path] = ""
    return texts


def assignments(unit: Unit) -> list[Assignment]:
    """Every variable that the unit sets, in systemd's order: the last one of a name counts.

    What an EnvironmentFile= sets wins over Environment= (systemd.exec(5)).
    """
    found: list[Assignment] = []
    for path, value in _settings(unit.files, "Environment"):
        if not value:  # systemd forgets all that came before
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
    """The assignment that counts, for each variable."""
    return {each.name: each for each in found}


def command_line(unit: Unit) -> str:
    """ExecStart= as it counts; "" when no file has one."""
    command = ""
    for _, value in _settings(unit.files, "ExecStart"):
        command = value
    return command


def variables_of(command: str) -> list[str]:
    """The variables that a command line names, in its order."""
    return _REFERENCE.findall(command)


def _settings(files: Mapping[str, str], name: str) -> Iterator[tuple[str, str]]:
    return settings(tuple(UnitFile(path, text) for path, text in files.items()), name)


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
