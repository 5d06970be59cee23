"""A folder on tmpfs in which calls of this program hand each other what they got.

The kubelet starts a process for each image. The folder is 0700, its files 0600, all of them checked
through their descriptors; a token never touches a disk. Anything odd is a miss, not a failure.
"""

import fcntl
import json
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

LOCK = ".lock"
FOLDER = "oke-credential-provider"
SYSTEM_PARENT = "/run"
# Everybody may write there, so each user has a folder of his own. Containers have it in memory,
# where /run is usually a part of their disk.
SHARED_MEMORY = "/dev/shm"  # noqa: S108
# Part of each file's name: versions of this program that write other contents never meet.
FORMAT = 2
_MAX_BYTES = 256 * 1024
_STALE_SECONDS = 2 * 3600
# With workload identity each of a node's 110 pods has four files: entry and lock, of its token and
# of its identity.
_MAX_FILES = 512
_MAX_TOTAL_BYTES = 4 * 1024 * 1024
_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
_OWN = os.O_NOFOLLOW | os.O_CLOEXEC


def places(environ: Mapping[str, str]) -> list[str]:
    """Where the folder may be, in the order in which ``Store.open`` tries."""
    below = [SYSTEM_PARENT, environ.get("XDG_RUNTIME_DIR") or ""]
    private = [os.path.join(parent, FOLDER) for parent in below if os.path.isabs(parent)]
    return [*private, f"{SHARED_MEMORY}/{FOLDER}-{os.geteuid()}"]


def entry_of(name: str) -> str:
    """The entry to which a file belongs: ``v1-fra.ocir.io-0a1b2c3d`` of its lock and its failure."""
    stem, dash, rest = name.rpartition("-")
    return f"{stem}{dash}{rest.partition('.')[0]}"


class Odd(Exception):
    """Something about the store is not as this program leaves it. The text says what, for the log."""


def now() -> float:
    """Seconds since boot, suspend included: a clock that nobody can set, and that starts anew just
    when tmpfs does.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Store:
    """The folder, by a descriptor that was checked; ``path`` is its name."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self.path = path

    @classmethod
    def open(cls, environ: Mapping[str, str], make: bool = True) -> "Store":
        """The first of ``places`` that is on tmpfs and is, or becomes, this user's own.

        Made when it is not there, if ``make``. Raises Odd when there is no such place, or when
        somebody else has put something there.
        """
        reasons = []
        for path in places(environ):
            if make and not os.path.lexists(path) and _in_memory(os.path.dirname(path)):
                with suppress(OSError):
                    os.mkdir(path, 0o700)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _OWN)
            except (FileNotFoundError, PermissionError) as error:
                reasons.append(f"{path}: {error.strerror}")
                continue  # root's place, and we are not root; or a parent that is not on tmpfs
            except OSError as error:
                raise Odd(f"{path}: {error.strerror}") from error
            if _in_memory(fd):
                _check_own(os.fstat(fd), path)
                return cls(fd, path)
            os.close(fd)
            reasons.append(f"{path} is not on tmpfs")
        raise Odd("; ".join(reasons))

    def names(self) -> list[str]:
        """The files that are there. Raises Odd."""
        try:
            return sorted(os.listdir(self._fd))
        except OSError as error:
            raise Odd(f"the store cannot be listed: {error.strerror}") from error

    def read(self, name: str) -> dict[str, Any] | None:
        """The contents of an entry; None when there is none. Raises Odd."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _OWN, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Odd(f"{name}: {error.strerror}") from error
        try:
            status = os.fstat(fd)
            _check_own(status, name)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
                raise Odd(f"{name} is no regular file of a sensible size")
            data = os.read(fd, _MAX_BYTES + 1)
        except OSError as error:
            raise Odd(f"{name}: {error.strerror}") from error
        finally:
            os.close(fd)
        try:
            content = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise Odd(f"{name} is not JSON") from error
        if not isinstance(content, dict):
            raise Odd(f"{name} is not a JSON object")
        return content

    def write(self, name: str, content: Mapping[str, object]) -> None:
        """Put an entry in place, whole or not at all. Raises Odd."""
        temporary = f"{name}.{os.getpid()}.new"
        try:
            with suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._fd)
            fd = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OWN, 0o600, dir_fd=self._fd
            )
            with os.fdopen(fd, "w") as file:
                json.dump(content, file)
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=self._fd)
            raise Odd(f"{name} cannot be written: {error.strerror}") from error

    def sweep(self) -> None:
        """Remove what is stale, then the least useful files, until the store is within its bounds.

        Least useful are locks and failures without an entry: they cost nothing to make, and image
        names can make any number of them. Of the others the oldest go first.
        """
        files: dict[str, os.stat_result] = {}
        with suppress(OSError):
            for name in os.listdir(self._fd):
                with suppress(OSError):
                    files[name] = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        stale = time.time() - _STALE_SECONDS
        count, size = len(files), sum(status.st_size for status in files.values())
        for name in sorted(files, key=lambda name: (entry_of(name) in files, files[name].st_mtime)):
            over = count > _MAX_FILES or size > _MAX_TOTAL_BYTES
            if (over or files[name].st_mtime < stale) and self._remove(name):
                count, size = count - 1, size - files[name].st_size

    def _remove(self, name: str) -> bool:
        """Remove a file, unless it is a lock that somebody holds."""
        try:
            if name.endswith(LOCK):
                fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _OWN, dir_fd=self._fd)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=self._fd)
                finally:
                    os.close(fd)
            else:
                os.unlink(name, dir_fd=self._fd)
        except OSError:
            return False
        return True

    def remove(self) -> None:
        """Remove the files of every version of this program, and the folder if it is empty then."""
        with suppress(Odd, OSError):
            for name in self.names():
                if name.startswith("v") and name[1:].partition("-")[0].isdecimal():
                    os.unlink(name, dir_fd=self._fd)
            os.rmdir(self.path)

    def lock(self, name: str) -> "Lock":
        """The lock of an entry. Raises Odd."""
        path = f"{name}{LOCK}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | _OWN, 0o600, dir_fd=self._fd)
            _check_own(os.fstat(fd), path)
        except OSError as error:
            raise Odd(f"{path}: {error.strerror}") from error
        return Lock(fd)


class Lock:
    """A lock between processes that ends with the process that holds it, however that ends."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def take(self) -> bool:
        """Try to take it for ourselves alone; False when somebody has it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        with suppress(OSError):
            os.utime(self._fd)  # in use: not stale
        return True

    def wait(self) -> None:
        """Block until nobody has it for himself alone; all who wait go on at once."""
        fcntl.flock(self._fd, fcntl.LOCK_SH)
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def release(self) -> None:
        """Let the others go on."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)


def _check_own(status: os.stat_result, what: str) -> None:
    if status.st_uid != os.geteuid():
        raise Odd(f"{what} belongs to user {status.st_uid}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise Odd(f"{what} is open to others (mode {stat.S_IMODE(status.st_mode):o})")


def _in_memory(place: str | int) -> bool:
    """True when a path or descriptor is on tmpfs."""
    with suppress(OSError):
        device = os.stat(place).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                mount, _, source = line.partition(" - ")
                if mount.split()[2] == wanted:
                    return source.split()[0] in _MEMORY_FILE_SYSTEMS
    return False
