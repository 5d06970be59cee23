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

FOLDER = "oke-credential-provider"
SYSTEM_PARENT = "/run"
# Part of each file's name: versions of this program that write other contents never meet.
FORMAT = 1
_MAX_BYTES = 256 * 1024
_STALE_SECONDS = 2 * 3600
_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
_OWN = os.O_NOFOLLOW | os.O_CLOEXEC


class Odd(Exception):
    """Something about the store is not as this program leaves it. The text says what, for the log."""


def now() -> float:
    """Seconds since boot, suspend included: a clock that nobody can set, and that starts anew just
    when tmpfs does.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Store:
    """The folder, by a descriptor that was checked."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def open(cls, environ: Mapping[str, str], make: bool = True) -> "Store":
        """``/run/oke-credential-provider`` where /run may be written, else below XDG_RUNTIME_DIR.

        Made when it is not there, if ``make``. Raises Odd when there is no such place, or somebody
        else's.
        """
        parents = [SYSTEM_PARENT, environ.get("XDG_RUNTIME_DIR") or ""]
        for parent in filter(os.path.isabs, parents):
            path = os.path.join(parent, FOLDER)
            if make:
                with suppress(OSError):
                    os.mkdir(path, 0o700)
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _OWN)
            except (FileNotFoundError, PermissionError):
                continue  # root's place, and we are not root
            except OSError as error:
                raise Odd(f"{path}: {error.strerror}") from error
            _check_own(os.fstat(fd), path)
            return cls(fd)
        raise Odd("neither /run nor XDG_RUNTIME_DIR can be written")

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
        """Put an entry in place, whole or not at all. Raises Odd when this is no tmpfs."""
        if not _in_memory(os.fstat(self._fd).st_dev):
            raise Odd("the store's folder is not on tmpfs")
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
        """Take away what nobody can use any more, so that the store stays small."""
        oldest = time.time() - _STALE_SECONDS
        with suppress(OSError):
            for name in os.listdir(self._fd):
                with suppress(OSError):
                    if os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mtime < oldest:
                        os.unlink(name, dir_fd=self._fd)

    def clear(self) -> None:
        """Remove the files of every version of this program, and no others. Raises Odd."""
        for name in self.names():
            if name.startswith("v") and name[1:].partition("-")[0].isdecimal():
                with suppress(OSError):
                    os.unlink(name, dir_fd=self._fd)

    def lock(self, name: str) -> "Lock":
        """The lock of an entry. Raises Odd."""
        path = f"{name}.lock"
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


def _in_memory(device: int) -> bool:
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            mount, _, source = line.partition(" - ")
            if mount.split()[2] == wanted:
                return source.split()[0] in _MEMORY_FILE_SYSTEMS
    return False
