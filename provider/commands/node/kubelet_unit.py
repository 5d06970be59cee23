"""Parse the kubelet's unit files and write the drop-in of ``enable``. No I/O."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

UNIT: Final = "kubelet.service"
# systemd applies drop-ins in the order of their file names, whatever their folder. This one sorts after
# the drop-ins of `oke bootstrap` (00-default.conf) and of others (kubelet-extra-args.conf). The trial
# must sort after the drop-in that it can replace: ".trial.conf" sorts after ".conf".
DROP_IN: Final = f"/etc/systemd/system/{UNIT}.d/zz-oke-credential-provider.conf"
TRIAL: Final = f"/run/systemd/system/{UNIT}.d/zz-oke-credential-provider.trial.conf"
_FLAG: Final = re.compile(
    r"(--image[-_]credential[-_]provider[-_](?:config|bin[-_]dir))(?:=|[\"']?\s+)[\"']?([^\s\"'\\]+)"
)
_PREFIXES: Final = "@-:+!|"  # systemd.service(5): what can precede the path in ExecStart=
_MARK: Final = "# Written by: oke-credential-provider enable."
_HEADER: Final = f"""\
{_MARK} Remove it with: oke-credential-provider disable
# It repeats the unit's own ExecStart= and adds two flags.
"""


class UnitFile(NamedTuple):
    """A unit file, a drop-in or an environment file."""

    path: str
    text: str


class FlagSetting(NamedTuple):
    """A flag that a file sets."""

    flag: str
    value: str
    path: str


class UnsupportedCommand(Exception):
    """Flags cannot be added to the unit's command; the message says why."""


def parse_properties(shown: str) -> dict[str, str]:
    """Parse the output of ``systemctl show``."""
    pairs = (line.partition("=") for line in shown.splitlines())
    return {name: value for name, equals, value in pairs if equals}


def logical_lines(text: str) -> Iterator[str]:
    """Lines without comments, joined where a backslash continues them (systemd.syntax(7))."""
    joined = ""
    for raw in text.split("\n"):
        line = raw.strip(" \t\r")
        if line.startswith(("#", ";")):
            continue
        backslashes = len(line) - len(line.rstrip("\\"))
        if backslashes % 2:
            joined += line[:-1] + " "
            continue
        yield joined + line
        joined = ""
    yield joined


def settings(files: Sequence[UnitFile], key: str) -> Iterator[tuple[str, str]]:
    """(path, value) of each ``key=`` in the [Service] sections."""
    for file in files:
        section = ""
        for line in logical_lines(file.text):
            if line.startswith("["):
                section = line
                continue
            name, equals, value = line.partition("=")
            if section == "[Service]" and equals and name.strip() == key:
                yield file.path, value.strip()


def values(files: Sequence[UnitFile], key: str) -> list[str]:
    """The values of a key that are in effect: an empty value removes the earlier ones."""
    found: list[str] = []
    for _, value in settings(files, key):
        found = [*found, value] if value else []
    return found


def command_of(files: Sequence[UnitFile]) -> str:
    """The unit's only ExecStart=, without expansion. Raises UnsupportedCommand."""
    commands = values(files, "ExecStart")
    if len(commands) != 1:
        raise UnsupportedCommand(f"it has {len(commands)} ExecStart= lines, not one")
    (command,) = commands
    if re.search(r"\s;(\s|$)", command):
        raise UnsupportedCommand("its ExecStart= has several commands, separated by ;")
    words = [word.replace('"', "").replace("'", "") for word in command.split()]
    program = words[0].lstrip(_PREFIXES)
    # A shell or a wrapper might not pass added arguments on.
    if [os.path.basename(program), *words[1:2]] != ["hyperkube", "kubelet"] and (
        os.path.basename(program) != "kubelet"
    ):
        raise UnsupportedCommand(f"its ExecStart= starts {program}, not the kubelet itself")
    return command


def environment_files(files: Sequence[UnitFile]) -> list[str]:
    """The paths (or glob patterns) of EnvironmentFile=, without those that have a % specifier."""
    paths = (value.lstrip("-") for value in values(files, "EnvironmentFile"))
    return [path for path in paths if "%" not in path]


def is_written_by_enable(text: str) -> bool:
    """True if ``enable`` wrote this drop-in."""
    return text.startswith(_MARK)


def without_ours(files: Sequence[UnitFile]) -> list[UnitFile]:
    """The unit's files without those of ``enable``."""
    return [
        file
        for file in files
        if file.path != TRIAL and not (file.path == DROP_IN and is_written_by_enable(file.text))
    ]


def flags_in(files: Sequence[UnitFile]) -> list[FlagSetting]:
    """Every occurrence of one of the two flags, in the files' order."""
    return [
        FlagSetting(match[1].replace("_", "-"), match[2], file.path)
        for file in files
        for line in logical_lines(file.text)
        for match in _FLAG.finditer(line)
    ]


def drop_in(commands: Sequence[str], flags: Mapping[str, str]) -> str:
    """The text of a drop-in that runs ``commands``, each with ``flags`` at its end."""
    given = "".join(f" {name}={value}" for name, value in flags.items())
    lines = "".join(f"ExecStart={command}{given}\n" for command in commands)
    return f"{_HEADER}[Service]\nExecStart=\n{lines}"
