"""Which files root alone can replace. As root, this program runs and believes nothing else."""

import os
import stat
from typing import Final

# Where programs are looked for, whatever the environment says.
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_LINKS: Final = 40  # as the kernel's


def who_can_replace(path: str, user: int = 0) -> str | None:
    """Say what lets somebody other than root and ``user`` put another file at ``path``, or change
    the one that is there. None when nothing does.

    The path is followed as the kernel follows it. Each folder, symbolic link and file on the way must
    belong to root or ``user``, and only they may write to it. A sticky folder on the way (/tmp) may be
    open to all: nobody can rename what is root's in it. A name that does not exist must be one that
    others cannot create. The answer cannot become wrong between check and use, because each step
    starts from a folder in which others cannot change the next name.

    POSIX ACLs that allow writing show in the group's bits. Other kinds of ACL are not seen, nor are
    file systems whose server invents owners. / is not checked: its owner owns the machine anyway.

    Raises OSError when this user may not look.
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
    """The first program of that name in PATH that root alone can replace."""
    for folder in PATH.split(":"):
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK) and who_can_replace(path) is None:
            return path
    return None


def _names(path: str) -> list[str]:
    """The path's components, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _writable(path: str, mode: int) -> str | None:
    others = mode & (stat.S_IWGRP | stat.S_IWOTH)
    return f"{path} can be written by others (mode {stat.S_IMODE(mode):o})" if others else None
