"""The program laid out as files: what ``install`` puts on a node, and ``uninstall`` takes away.

A laid-out program is a folder::

    MANIFEST                        sha256, mode and path of every other file
    bin/oke-credential-provider     what is to be called, by whatever name or symbolic link
    bin/program/...                 what PyInstaller made

The frozen program runs from such a folder itself, so laying it out means copying that. All of it lies
under a folder named bin, which SELinux's reference policy labels bin_t also under /usr/local/lib
(otherwise lib_t): a kubelet may execute it.
"""

import hashlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from provider.errors import CannotUnpack, Damaged
from provider.frozen import folder

EXECUTABLE = "bin/oke-credential-provider"
MANIFEST = "MANIFEST"
# Beside a laid-out program: one that is not whole. One at a time; what is found there may be removed.
ASIDE = ".aside"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: ``path`` within the folder, permission bits, SHA-256 in hex."""

    path: str
    mode: int
    sha256: str


def manifest(place: Path) -> tuple[Entry, ...]:
    """What the folder ``place`` should hold, besides the manifest. Raises Damaged."""
    try:
        lines = (place / MANIFEST).read_text(encoding="utf-8").splitlines()
        entries = tuple(
            Entry(path, int(mode, 8), digest)
            for digest, mode, path in (line.split(" ", 2) for line in lines)
        )
    except (OSError, ValueError) as error:
        raise Damaged(f"{place / MANIFEST} cannot be read") from error
    for entry in entries:
        if entry.path.startswith("/") or ".." in entry.path.split("/"):
            raise Damaged(f"{place / MANIFEST} names {entry.path!r}, a path outside of its folder")
    return entries


def unpack(destination: Path) -> Path:
    """Lay the running program out in ``destination``, a new folder, and write it through to the disk.

    Returns the path of the executable in it. Every file is compared with the manifest on the way.
    Raises CannotUnpack (not frozen, folder exists, disk full), Damaged.
    """
    running = folder()
    if running is None:
        raise CannotUnpack(
            "this is the source, which has nothing to unpack", "Use a released binary."
        )
    source = Path(running)
    entries = manifest(source)
    try:
        _make_folder(destination)
        for entry in entries:
            target = destination / entry.path
            for parent in reversed(target.relative_to(destination).parents[:-1]):
                if not (destination / parent).exists():
                    _make_folder(destination / parent)
            content = (source / entry.path).read_bytes()
            if hashlib.sha256(content).hexdigest() != entry.sha256:
                raise Damaged(f"{source / entry.path} is not what was built")
            _write(target, content, entry.mode)
        _write(destination / MANIFEST, (source / MANIFEST).read_bytes(), 0o644)
    except OSError as error:
        raise CannotUnpack(f"{error.filename or destination}: {error.strerror}") from error
    return destination / EXECUTABLE


def differences(place: Path) -> list[str]:
    """How the files under ``place`` differ from its manifest, one line each; empty when they do not.

    A file that the manifest does not list counts, because Python imports a module that it finds there. So
    does an owner or a mode that lets another user change the program. Raises Damaged when there is no manifest to compare with.
    """
    entries = manifest(place)
    listed = {MANIFEST, *(entry.path for entry in entries)}
    found = [
        f"{path}: not in the manifest"
        for path in place.rglob("*")
        if (path.is_symlink() or not path.is_dir()) and str(path.relative_to(place)) not in listed
    ]
    for path in (place, *place.rglob("*")):
        status = path.lstat()
        if status.st_uid not in (0, os.geteuid()):
            found.append(f"{path}: belongs to user {status.st_uid}")
        elif stat.S_ISDIR(status.st_mode) and status.st_mode & 0o022:
            found.append(f"{path}: other users can write to it")
    for entry in entries:
        path = place / entry.path
        try:
            content = path.read_bytes()
        except OSError as error:
            found.append(f"{path}: {error.strerror}")
            continue
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            found.append(f"{path}: changed")
        elif path.stat().st_mode & 0o7777 != entry.mode:
            found.append(f"{path}: mode is {path.stat().st_mode & 0o7777:o}, not {entry.mode:o}")
    return found


def remove(place: Path) -> None:
    """Take away what ``unpack`` put into ``place``, and no other file; folders that are then empty go
    too, ``place`` among them. Interrupted, it can be repeated: the manifest goes last, in one step with
    the folder, by the name ASIDE. Raises Damaged, OSError.
    """
    paths = [place / entry.path for entry in manifest(place)]
    folders = {parent for path in paths for parent in path.relative_to(place).parents[:-1]}
    for path in paths:
        path.unlink(missing_ok=True)
    for inner in sorted(folders, key=lambda folder: len(folder.parts), reverse=True):
        try:
            (place / inner).rmdir()
        except OSError:
            continue  # holds something that is not ours, or is gone
    if os.listdir(place) == [MANIFEST]:
        aside = place.with_name(ASIDE)
        place.rename(aside)
        shutil.rmtree(aside)
    else:
        (place / MANIFEST).unlink()


def _make_folder(path: Path) -> None:
    path.mkdir(parents=True)
    path.chmod(0o755)  # whatever the umask


def _write(path: Path, content: bytes, mode: int) -> None:
    with path.open("xb") as file:
        file.write(content)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
