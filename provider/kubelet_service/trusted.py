"""What only root can replace. A narrow seam: the one predicate of the tree takes its place."""

import os
import stat
from pathlib import Path


def untrusted_part(path: str) -> str | None:
    """The first part of a path (itself, a folder above it, a link on the way) that others than root
    could replace or write to. None when root alone can. Raises OSError.
    """
    pending = Path(os.path.abspath(path))
    for part in [*reversed(pending.parents), pending]:
        status = part.lstat()
        writable = not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o022
        if status.st_uid != 0 or writable:
            return str(part)
    real = Path(os.path.realpath(path))
    return None if real == pending else untrusted_part(str(real))
