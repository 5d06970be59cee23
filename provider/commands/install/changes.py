"""The changes of a run: apply and report them, alone with the prefix."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from provider.commands.install.files import make_directories
from provider.commands.install.layout import ASIDE
from provider.commands.outcome import Outcome, Say
from provider.errors import CannotInstall


@dataclass(frozen=True, slots=True)
class Change:
    """One change: the path, what is printed after it ("removed"), and the function that makes it."""

    path: Path
    done: str
    make: Callable[[], object]


@dataclass(slots=True)
class Changed(Outcome):
    """The changes of a run: for each the path, and what was done or would be done."""

    changes: list[dict[str, str]]


def apply(changes: list[Change], dry_run: bool, say: Say) -> Changed:
    """Make and print each change; print only, if ``dry_run``."""
    for change in changes:
        if not dry_run:
            change.make()
        say(f"{change.path}: {'would be ' if dry_run else ''}{change.done}")
    made = [{"path": str(change.path), "change": change.done} for change in changes]
    return Changed(bool(made), made)


@contextmanager
def locked(prefix: Path, dry_run: bool) -> Iterator[list[Path]]:
    """Hold the lock of ``prefix``. Create it, and remove it at the end if it is empty.

    Yields the created directories. A dry run takes no lock. Raises OSError, CannotInstall.
    """
    if dry_run:
        yield []
        return
    created = make_directories(prefix)
    fd = os.open(prefix, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not prefix.exists() or not os.path.samestat(os.fstat(fd), prefix.stat()):
            raise CannotInstall(f"another process removed {prefix}", "Run it again.")
        shutil.rmtree(prefix / ASIDE, ignore_errors=True)  # left by an interrupted run
        yield created
    finally:
        os.close(fd)
        with suppress(OSError):
            for directory in reversed(created):
                directory.rmdir()


@contextmanager
def reported(prefix: Path) -> Iterator[None]:
    """Raise CannotInstall for a failure of the file system."""
    try:
        yield
    except OSError as error:
        where = error.filename2 or error.filename or prefix  # a write to a full disk names no file
        denied = isinstance(error, PermissionError) and os.geteuid() != 0
        hint = "Run it as root." if denied else None
        raise CannotInstall(f"{os.fsdecode(where)}: {error.strerror}", hint) from error
