"""Atomic changes of files: after a crash a file has its old content or its new content."""

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from provider.errors import CannotInstall
from provider.root_only import PATH, find_program, who_can_replace

_SELINUX: Final = "/sys/fs/selinux/enforce"  # exists if the kernel has a policy, enforced or not
_RESTORECON_SECONDS: Final = 60.0


def refuse_replaceable(*paths: Path) -> None:
    """Raise CannotInstall if a user other than root and this one can replace a path. Raises OSError."""
    for path in paths:
        if reason := who_can_replace(str(path), os.geteuid()):
            raise CannotInstall(
                f"{path} is not safe: {reason}; whoever can write there would own the node",
                "Choose a directory that only root can write to, or protect it and each of its parent"
                " directories: chown root:root, chmod go-w.",
            )


def refuse_noexec(path: Path) -> None:
    """Raise CannotInstall if no program below ``path`` can be executed. Raises OSError."""
    existing = next(each for each in (path, *path.parents) if each.exists())
    if os.statvfs(existing).f_flag & os.ST_NOEXEC:
        raise CannotInstall(
            f"{path} is on a file system that is mounted noexec, so the kubelet could not run the program",
            "Choose a --prefix on another file system, or mount this one without noexec.",
        )


def missing_directories(path: Path) -> list[Path]:
    """``path`` and its parents that do not exist, from the top down."""
    return [directory for directory in reversed([path, *path.parents]) if not directory.exists()]


def make_directories(path: Path) -> list[Path]:
    """Create ``path`` and its parents. Returns the new directories. Raises OSError."""
    created = []
    for directory in missing_directories(path):
        with suppress(FileExistsError):  # another process was faster
            directory.mkdir()
            created.append(directory)
        sync(directory.parent)
    return created


def write_file(path: Path, text: str, like: os.stat_result | None = None) -> None:
    """Write or replace a file, with the mode and owner of ``like``. Raises OSError, CannotInstall."""
    opener = _open_private if like else None
    with _replacing(path) as new, open(new, "x", encoding="utf-8", opener=opener) as file:
        file.write(text)
        if like:
            os.fchown(file.fileno(), like.st_uid, like.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(like.st_mode))
        file.flush()
        os.fsync(file.fileno())


def link(path: Path, to: str) -> None:
    """Create a symbolic link, or replace whatever is at ``path``. Raises OSError, CannotInstall."""
    with _replacing(path) as temporary:
        temporary.symlink_to(to)


def add_name(path: Path, other: Path) -> None:
    """Give the file or link at ``path`` a second name. Raises OSError."""
    other.unlink(missing_ok=True)
    os.link(path, other, follow_symlinks=False)
    sync(path.parent)


def is_link_to(path: Path, to: str) -> bool:
    """True for a symbolic link with exactly this target."""
    return path.is_symlink() and os.readlink(path) == to


def sync(directory: Path) -> None:
    """Write the names in a directory to the disk. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_tree(directory: Path) -> None:
    """``sync`` a directory and all directories below it. Raises OSError."""
    for inner, _, _ in os.walk(directory):
        sync(Path(inner))


def restore_labels(path: Path) -> None:
    """Set the SELinux labels of ``path`` and of all files below it, if the node has a policy.

    A new file inherits its directory's label, which may keep the kubelet from executing it. Raises
    CannotInstall.
    """
    if not os.path.exists(_SELINUX):
        return
    program = find_program("restorecon")
    if program is None:
        raise CannotInstall(
            "SELinux is enabled, and there is no restorecon to label the files",
            "Install policycoreutils. The kubelet does not start if it may not execute its provider.",
        )
    try:
        subprocess.run(
            [program, "-R", str(path)],
            env={"PATH": PATH},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_RESTORECON_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        raise CannotInstall(f"restorecon failed on {path}: {reason}") from error
    except subprocess.TimeoutExpired as error:
        raise CannotInstall(f"restorecon on {path} took too long") from error


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a free name in the same directory, and move what is created there to ``path``.

    The lock on the prefix keeps other runs away.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        restore_labels(temporary)
        temporary.replace(path)
        sync(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a write to a full disk names no file
        raise
