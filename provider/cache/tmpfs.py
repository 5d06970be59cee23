"""Files and locks on tmpfs, which the processes of one user share.

The directory has mode 0700 and its files 0600; each is checked through its descriptor. A token is never written
to disk. Unexpected state is a cache miss, not an error.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time

from provider.light_json import dumps, loads
from provider.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from provider.net.deadline import Deadline

LOCK_SUFFIX = ".lock"
FOLDER = "oke-credential-provider"
SYSTEM_PARENT = "/run"
# All users may write here, so the name of the directory contains the UID, and the directory is checked. In a
# container this is tmpfs, and /run usually is not.
SHARED_MEMORY = "/dev/shm"  # noqa: S108 # owner and mode are checked through the descriptor
# Part of each file name: versions of this program with another format do not read each other's files.
FORMAT = 2
_MAX_BYTES = 256 * 1024
# Seconds between two looks at a lock: at first, and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.1
_STALE_SECONDS = 2 * 3600
# With workload identity, each of a node's 110 pods has four files: entry and lock, of its registry and of its
# identity.
_MAX_FILES = 512
_MAX_TOTAL_BYTES = 4 * 1024 * 1024
_MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
_SAFE = os.O_NOFOLLOW | os.O_CLOEXEC


def candidate_folders(environ: Mapping[str, str]) -> list[str]:
    """Return the paths where the cache directory may be, in the order in which ``Store.open`` tries them."""
    parents = [SYSTEM_PARENT, environ.get("XDG_RUNTIME_DIR") or ""]
    private = [os.path.join(parent, FOLDER) for parent in parents if os.path.isabs(parent)]
    return [*private, f"{SHARED_MEMORY}/{FOLDER}-{os.geteuid()}"]


def entry_of(name: str) -> str:
    """Return the entry that a file belongs to: ``v2-fra.ocir.io-0a1b2c3d`` for its lock and its failure."""
    stem, dash, rest = name.rpartition("-")
    return f"{stem}{dash}{rest.partition('.')[0]}"


class CacheUnavailable(Exception):
    """The cache cannot be used. The message says why, for the log."""


def now() -> float:
    """Return the seconds since boot, including suspend. Nobody can set this clock. When it starts at zero,
    tmpfs is empty.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Store:
    """The cache directory, opened and checked. ``path`` is its path."""

    def __init__(self, fd: int, path: str) -> None:
        self._fd = fd
        self.path = path

    @classmethod
    def open(cls, environ: Mapping[str, str], make: bool = True) -> Store:
        """Open the first of ``candidate_folders`` that is on tmpfs; create it if ``make`` is true.

        Raises CacheUnavailable if there is none, or if it belongs to another user.
        """
        reasons = []
        for path in candidate_folders(environ):
            if make and not os.path.lexists(path) and _in_memory(os.path.dirname(path)):
                try:
                    os.mkdir(path, 0o700)
                except OSError:
                    pass  # the reason shows below
            try:
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _SAFE)
            except (FileNotFoundError, PermissionError) as error:
                reasons.append(f"{path}: {error.strerror}")
                continue  # root's directory and this user is not root, or a parent that is not on tmpfs
            except OSError as error:
                raise CacheUnavailable(f"{path}: {error.strerror}") from error
            if _in_memory(fd):
                _check_own(os.fstat(fd), path)
                return cls(fd, path)
            os.close(fd)
            reasons.append(f"{path} is not on tmpfs")
        raise CacheUnavailable("; ".join(reasons))

    def names(self) -> list[str]:
        """List the files. Raises CacheUnavailable."""
        try:
            return sorted(os.listdir(self._fd))
        except OSError as error:
            raise CacheUnavailable(f"the cache cannot be listed: {error.strerror}") from error

    def read(self, name: str) -> dict[str, Any] | None:
        """Return the content of a file; None if there is none. Raises CacheUnavailable."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _SAFE, dir_fd=self._fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise CacheUnavailable(f"{name}: {error.strerror}") from error
        try:
            status = os.fstat(fd)
            _check_own(status, name)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
                raise CacheUnavailable(
                    f"{name} is not a regular file of at most {_MAX_BYTES} bytes"
                )
            data = os.read(fd, _MAX_BYTES + 1)
        except OSError as error:
            raise CacheUnavailable(f"{name}: {error.strerror}") from error
        finally:
            os.close(fd)
        try:
            content = loads(data)
        except (ValueError, RecursionError) as error:
            raise CacheUnavailable(f"{name} is not JSON") from error
        if not isinstance(content, dict):
            raise CacheUnavailable(f"{name} is not a JSON object")
        return content

    def write(self, name: str, content: Mapping[str, object]) -> None:
        """Replace a file atomically. Raises CacheUnavailable."""
        temporary = f"{name}.{os.getpid()}.new"
        try:
            self._unlink(temporary)
            fd = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _SAFE, 0o600, dir_fd=self._fd
            )
            with os.fdopen(fd, "w") as file:
                file.write(dumps(content))
            os.rename(temporary, name, src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError as error:
            self._unlink(temporary)
            raise CacheUnavailable(f"{name} cannot be written: {error.strerror}") from error

    def sweep(self) -> None:
        """Remove stale files, and then the least useful files until the cache is within its limits.

        Locks and failures without an entry go first: image names can create any number of them. Then the
        oldest files go.
        """
        files: dict[str, os.stat_result] = {}
        try:
            names = self.names()
        except CacheUnavailable:
            return
        for name in names:
            try:
                files[name] = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            except OSError:
                continue  # removed by another call
        stale = time.time() - _STALE_SECONDS
        count, size = len(files), sum(status.st_size for status in files.values())
        for name in sorted(files, key=lambda name: (entry_of(name) in files, files[name].st_mtime)):
            over = count > _MAX_FILES or size > _MAX_TOTAL_BYTES
            if (over or files[name].st_mtime < stale) and self._remove(name):
                count, size = count - 1, size - files[name].st_size

    def _unlink(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._fd)
        except OSError:
            pass

    def _remove(self, name: str) -> bool:
        """Remove a file, unless it is a lock that a process holds. Report whether it was removed."""
        try:
            if name.endswith(LOCK_SUFFIX):
                fd = os.open(name, os.O_RDONLY | os.O_NONBLOCK | _SAFE, dir_fd=self._fd)
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
        """Remove the files of all versions of this program, and then the directory if it is empty."""
        try:
            for name in self.names():
                if name.startswith("v") and name[1:].partition("-")[0].isdecimal():
                    os.unlink(name, dir_fd=self._fd)
            os.rmdir(self.path)
        except (CacheUnavailable, OSError):
            pass

    def lock(self, name: str) -> Lock:
        """Return the lock of an entry. Raises CacheUnavailable."""
        path = f"{name}{LOCK_SUFFIX}"
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | _SAFE, 0o600, dir_fd=self._fd)
            _check_own(os.fstat(fd), path)
        except OSError as error:
            raise CacheUnavailable(f"{path}: {error.strerror}") from error
        return Lock(fd)


class Lock:
    """A lock between processes. It is released when the process that holds it ends in any way."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def acquire(self) -> bool:
        """Try to acquire it exclusively, without waiting. Report whether that succeeded."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        try:
            os.utime(self._fd)  # so that it does not count as stale
        except OSError:
            pass
        return True

    def wait(self, deadline: Deadline, doing: str) -> None:
        """Wait until no process holds it exclusively; all waiting processes then continue at once.

        Raises DeadlineExceeded.
        """
        # A flock that blocks would need a thread for the deadline; importing threading takes 2 ms.
        pause = _FIRST_PAUSE
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(min(pause, deadline.left(doing)))
                # Longer pauses: with the first one, a hundred waiting calls use half of a core.
                pause = min(1.1 * pause, _LONGEST_PAUSE)
            else:
                self.release()
                return

    def release(self) -> None:
        """Release it."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)


def _check_own(status: os.stat_result, what: str) -> None:
    if status.st_uid != os.geteuid():
        raise CacheUnavailable(f"{what} belongs to user {status.st_uid}")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise CacheUnavailable(f"{what} is open to others (mode {stat.S_IMODE(status.st_mode):o})")


def _in_memory(place: str | int) -> bool:
    """Report whether a path or descriptor is on tmpfs."""
    try:
        device = os.stat(place).st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
            for line in mounts:
                mount, _, source = line.partition(" - ")
                if mount.split()[2] == wanted:
                    return source.split()[0] in _MEMORY_FILE_SYSTEMS
    except OSError:
        pass
    return False
