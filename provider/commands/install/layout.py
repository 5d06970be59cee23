"""The unpacked program: copy it, compare it with its manifest, remove it.

An unpacked program is a directory::

    MANIFEST                        SHA-256, mode and path of each other file
    bin/oke-credential-provider     the launcher; its name and symbolic links to it do not matter
    bin/program/...                 the output of PyInstaller

The frozen program runs from such a directory, so unpacking means copying it. All files are below a
directory named bin, because SELinux's reference policy labels them bin_t there, which the kubelet may
execute. Other files below /usr/local/lib are lib_t.
"""

import hashlib
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider.errors import Damaged

EXECUTABLE: Final = "bin/oke-credential-provider"
MANIFEST: Final = "MANIFEST"
# An incomplete copy next to the versions. There is one at a time, and the next run removes it.
ASIDE: Final = ".aside"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: its path in the directory, its permission bits, its SHA-256 in hex."""

    path: str
    mode: int
    sha256: str


def manifest(directory: Path) -> tuple[Entry, ...]:
    """The files that the manifest in ``directory`` lists. Raises Damaged."""
    try:
        lines = (directory / MANIFEST).read_text(encoding="utf-8").splitlines()
        entries = tuple(
            Entry(path, int(mode, 8), digest)
            for digest, mode, path in (line.split(" ", 2) for line in lines)
        )
    except (OSError, ValueError) as error:
        raise Damaged(f"{directory / MANIFEST} cannot be read") from error
    for entry in entries:
        if entry.path.startswith("/") or ".." in entry.path.split("/"):
            raise Damaged(
                f"{directory / MANIFEST} lists {entry.path!r}, which is outside of its directory"
            )
    return entries


def unpack(source: Path, destination: Path) -> None:
    """Copy an unpacked program to the new directory ``destination``, and sync its files to the disk.

    Compares each file with the manifest. Raises OSError, Damaged.
    """
    entries = manifest(source)
    _make_directory(destination)
    for entry in entries:
        target = destination / entry.path
        for parent in reversed(target.relative_to(destination).parents[:-1]):
            if not (destination / parent).exists():
                _make_directory(destination / parent)
        content = (source / entry.path).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise Damaged(f"{source / entry.path} differs from the build")
        _write(target, content, entry.mode)
    _write(destination / MANIFEST, (source / MANIFEST).read_bytes(), 0o644)


def is_intact(directory: Path) -> bool:
    """True if ``directory`` holds exactly the files of its manifest, and no other user can change them.

    An additional file matters, because Python would import a module there.
    """
    try:
        missing = {directory / entry.path: entry for entry in manifest(directory)}
        for path in (directory, *directory.rglob("*")):
            status = path.lstat()
            mode = stat.S_IMODE(status.st_mode)
            if status.st_uid not in (0, os.geteuid()):
                return False
            if stat.S_ISDIR(status.st_mode):
                if mode & 0o022:
                    return False
            elif path != directory / MANIFEST:
                entry = missing.pop(path)
                if not stat.S_ISREG(status.st_mode) or mode != entry.mode:
                    return False
                if hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
                    return False
        return not missing
    except (OSError, KeyError, Damaged):
        return False


def remove(directory: Path) -> None:
    """Remove the files that ``unpack`` wrote, and the directories that are empty then.

    An interrupted removal can be repeated, because the manifest is removed last, together with its
    directory, which is renamed to ASIDE first. Raises Damaged, OSError.
    """
    paths = [directory / entry.path for entry in manifest(directory)]
    inner = {parent for path in paths for parent in path.relative_to(directory).parents[:-1]}
    for path in paths:
        path.unlink(missing_ok=True)
    for path in sorted(inner, key=lambda path: len(path.parts), reverse=True):
        with suppress(OSError):  # it has other files, or was removed
            (directory / path).rmdir()
    if os.listdir(directory) == [MANIFEST]:
        aside = directory.with_name(ASIDE)
        directory.rename(aside)
        shutil.rmtree(aside)
    else:
        (directory / MANIFEST).unlink()


def _make_directory(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o755)  # regardless of the umask


def _write(path: Path, content: bytes, mode: int) -> None:
    with path.open("xb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
