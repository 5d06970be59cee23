"""The record that ``install`` keeps of its changes outside of the versions' directories."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, NamedTuple

from provider.commands.config import ALL
from provider.commands.install.files import write_file
from provider.errors import CannotInstall

_RECORD: Final = "installed.json"


class ConfigOptions(NamedTuple):
    """The options with which ``install`` wrote a config; see the command ``config``."""

    realm: str = ALL
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """What ``install`` changed.

    ``configs`` has each path and the SHA-256 of the text written there. ``merged`` has each config that
    is not its own, and the digest of the entry added there. ``options`` has the options of each of these
    texts. ``folders`` are the directories that it created. ``previous`` is the name of the version
    before, or "".
    """

    bin_dirs: tuple[str, ...] = ()
    configs: tuple[tuple[str, str], ...] = ()
    merged: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()
    previous: str = ""
    options: tuple[tuple[str, ConfigOptions], ...] = ()


def record_path(prefix: Path) -> Path:
    """The file that holds the record."""
    return prefix / _RECORD


def read_record(prefix: Path) -> Record:
    """Read the record; an empty one if there is none. Raises OSError, CannotInstall."""
    path = record_path(prefix)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Record(
            bin_dirs=tuple(content["bin_dirs"]),
            configs=tuple(content["configs"].items()),
            merged=tuple(content.get("merged", {}).items()),
            folders=tuple(content["folders"]),
            previous=str(content["previous"]),
            options=tuple(
                (name, ConfigOptions(str(each["realm"]), tuple(each["hosts"])))
                for name, each in content.get("options", {}).items()  # 0.1.0 has none
            ),
        )
    except FileNotFoundError:
        return Record()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotInstall(f"{path} is invalid", "Remove it and run install again.") from error


def write_record(prefix: Path, record: Record) -> None:
    """Replace the record. Raises OSError, CannotInstall."""
    options = {name: each._asdict() for name, each in record.options}
    content = {
        **asdict(record),
        "configs": dict(record.configs),
        "merged": dict(record.merged),
        "options": options,
    }
    write_file(record_path(prefix), json.dumps(content, indent=2) + "\n")
