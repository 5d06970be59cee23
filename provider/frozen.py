"""What is different when the program is frozen: its surroundings at the start and at the end.

``packaging/launcher.c`` starts it. The one-file form runs in a folder that was unpacked for this call
alone, which holds a file ``pid`` with this process's number; the installed form has no such file.
"""

import os
import sys
from contextlib import suppress

_MARKER = "pid"
# What the launcher and PyInstaller's bootloader set for themselves.
_OURS = ("LD_LIBRARY_PATH", "_PYI_ARCHIVE_FILE", "_PYI_PARENT_PROCESS_LEVEL")


def folder() -> str | None:
    """The folder that holds ``bin/`` and ``MANIFEST``; None when the program is not frozen."""
    contents = getattr(sys, "_MEIPASS", None)
    # <folder>/bin/program/_internal
    return os.path.dirname(os.path.dirname(os.path.dirname(contents))) if contents else None


def enter() -> None:
    """Take our own variables out of the environment, so that they do not reach other programs.

    The dynamic linker read its part when the process began.
    """
    for name in _OURS:
        os.environ.pop(name, None)


def leave() -> None:
    """Remove the folder that was unpacked for this process. Nothing can be imported afterwards."""
    place = folder()
    if place is None:
        return
    marker = os.path.join(place, _MARKER)
    try:
        with open(marker, encoding="ascii") as file:
            if file.read() != f"{os.getpid()}\n":
                return
    except OSError:
        return
    # What fails here, the next call sweeps.
    with suppress(OSError):
        for entry in os.scandir(place):
            if entry.name != _MARKER:
                _remove(entry)
        # Last: a folder without it is taken for somebody else's.
        os.unlink(marker)
        os.rmdir(place)


def _remove(entry: "os.DirEntry[str]") -> None:
    if not entry.is_dir(follow_symlinks=False):
        os.unlink(entry.path)
        return
    for inner in os.scandir(entry.path):
        _remove(inner)
    os.rmdir(entry.path)
