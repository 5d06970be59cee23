"""Find out whether only root can replace a file. As root, this program runs and trusts only such files."""

import os
import stat
from typing import Final

# Where to find programs, whatever the environment says; also the PATH of child processes.
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_LINKS: Final = 40  # the kernel's limit


def who_can_replace(path: str, user: int = 0) -> str | None:
    """Say how a user other than root and ``user`` can create, replace or change the file at ``path``.

    None if no other user can. The path is resolved as by the kernel. Each directory, symbolic link and
    file in it must belong to root or ``user``, and only they may write to it. A sticky directory (/tmp)
    may be writable by all, because other users cannot rename root's files in it. If the name
    does not exist, other users must not be able to create it. The answer stays true between check and
    use, because each step starts in a directory where others cannot change the next name.

    POSIX ACLs with write permission show in the group's mode bits. Other ACLs and network file systems
    that report arbitrary owners are not detected. / is not checked: its owner controls the machine anyway.

    Raises OSError if this user may not inspect the path.
    """
    here = "/"
    left = _names(os.path.join(os.getcwd(), path))
    links = 0
    while left:
        name = left.pop()
        if name == "..":
            here = os.path.dirname(here)
            continue
        child = os.path.join(here, name)
        try:
            status = os.lstat(child)
        except FileNotFoundError:
            return _writable(here, os.lstat(here).st_mode)
        if status.st_uid not in (0, user):
            return f"{child} belongs to user {status.st_uid}"
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MAX_LINKS:
                return f"{path} has too many symbolic links"
            target = os.readlink(child)
            here = "/" if os.path.isabs(target) else here
            left += _names(target)
            continue
        sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX and left
        if not sticky and (reason := _writable(child, status.st_mode)):
            return reason
        here = child
    return None


def find_program(name: str) -> str | None:
    """The first program of that name in PATH that only root can replace."""
    for folder in PATH.split(":"):
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK) and who_can_replace(path) is None:
            return path
    return None


def _names(path: str) -> list[str]:
    """The components of the path in reverse order."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _writable(path: str, mode: int) -> str | None:
    others = mode & (stat.S_IWGRP | stat.S_IWOTH)
    return f"{path} is writable by other users (mode {stat.S_IMODE(mode):o})" if others else None
