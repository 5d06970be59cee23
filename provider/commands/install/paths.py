"""Where an installation lies, and what it knows of itself."""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from provider.commands.install.files import is_link_to, make_folders, write_file
from provider.commands.install.layout import ASIDE, EXECUTABLE, MANIFEST, manifest
from provider.commands.kubelet_config import ALIAS, PROVIDER_NAME
from provider.errors import CannotInstall, CannotUnpack, Damaged
from provider.plugin import docker_helper as docker_credential

CONFIG: Final = "credential-provider-config.yaml"
ALIASES: Final = (ALIAS, docker_credential.NAME)
# What another program is renamed to when a link takes its place; uninstall gives its name back.
KEPT: Final = ".before-install"
_RECORD: Final = "installed.json"

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Places:
    """Where things go, as absolute paths; ``helper``: also as a credential helper."""

    bin_dir: Path
    config_dir: Path
    prefix: Path
    helper: bool = False

    @property
    def link(self) -> Path:
        """The program's name in the bin dir: the link whose renaming switches."""
        return self.bin_dir / PROVIDER_NAME

    @property
    def aliases(self) -> list[Path]:
        """Its further names, links to that one."""
        return [self.bin_dir / name for name in (ALIASES if self.helper else ALIASES[:1])]

    @property
    def config(self) -> Path:
        """The CredentialProviderConfig."""
        return self.config_dir / CONFIG


@dataclass(frozen=True, slots=True)
class Record:
    """What ``install`` did outside of the versions' folders.

    ``configs``: path -> SHA-256 of the text written there. ``folders``: those that it made.
    ``previous``: name of the folder that it switched from, "" at first.
    """

    bin_dirs: tuple[str, ...] = ()
    configs: tuple[tuple[str, str], ...] = ()
    folders: tuple[str, ...] = ()
    previous: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One change: to what, how it is called when it is done, and how to do it."""

    path: Path
    done: str
    take: Callable[[], object]


def take(steps: list[Step], dry_run: bool, say: Say) -> None:
    """Take the steps, saying each; or only say them."""
    for step in steps:
        if not dry_run:
            step.take()
        say(f"{step.path}: {'would be ' if dry_run else ''}{step.done}")


def record_path(prefix: Path) -> Path:
    """The file with the record."""
    return prefix / _RECORD


def read_record(prefix: Path) -> Record:
    """What was written last; an empty one when there is none. Raises CannotInstall."""
    path = record_path(prefix)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Record(
            bin_dirs=tuple(content["bin_dirs"]),
            configs=tuple(content["configs"].items()),
            folders=tuple(content["folders"]),
            previous=str(content["previous"]),
        )
    except FileNotFoundError:
        return Record()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CannotInstall(
            f"{path} is not what install wrote", "Remove it, and run install again."
        ) from error


def write_record(prefix: Path, record: Record) -> None:
    """Replace the record. Raises OSError, CannotInstall."""
    content = {**asdict(record), "configs": dict(record.configs)}
    write_file(record_path(prefix), json.dumps(content, indent=2) + "\n")


def version_of_link(path: Path, prefix: Path) -> str | None:
    """The name of the version's folder that a link of ours leads to; None for anything else."""
    if not path.is_symlink():
        return None
    folder, executable, _ = os.readlink(path).partition(f"/{EXECUTABLE}")
    return Path(folder).name if executable and Path(folder).parent == prefix else None


def version_folders(prefix: Path) -> list[Path]:
    """The versions that are laid out, whole or not. What has no manifest that can be read is not among
    them: it could not be told from what a person put there.
    """
    return sorted(path.parent for path in prefix.glob(f"[!.]*/{MANIFEST}") if _is_manifest(path))


def _is_manifest(path: Path) -> bool:
    try:
        return bool(manifest(path.parent))
    except Damaged:
        return False


def is_ours(path: Path, prefix: Path) -> bool:
    """True for a link that ``install`` made: to a version, or from a further name to the first."""
    if path.name in ALIASES and is_link_to(path, PROVIDER_NAME):
        return True
    return version_of_link(path, prefix) is not None


@contextmanager
def locked(prefix: Path, dry_run: bool) -> Iterator[list[Path]]:
    """Alone with ``prefix``, which is there meanwhile; left empty, it goes again. Not when
    ``dry_run``. Gives the folders that were made for it. Raises OSError, CannotInstall.
    """
    if dry_run:
        yield []
        return
    made = make_folders(prefix)
    fd = os.open(prefix, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not prefix.exists() or not os.path.samestat(os.fstat(fd), prefix.stat()):
            raise CannotInstall(f"{prefix} was taken away by another process", "Run it again.")
        # What an interrupted run left.
        shutil.rmtree(prefix / ASIDE, ignore_errors=True)
        yield made
    finally:
        os.close(fd)
        with suppress(OSError):
            for folder in reversed(made):
                folder.rmdir()


@contextmanager
def reported() -> Iterator[None]:
    """Raise CannotInstall for what the file system refused."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or "the disk"
        hint = "Run it as root." if isinstance(error, PermissionError) else None
        raise CannotInstall(f"{os.fsdecode(where)}: {error.strerror}", hint) from error
    except CannotUnpack as error:
        raise CannotInstall(error.message) from error
