"""What differs in the frozen forms (one file, installed): environment at start, cleanup at end.

``packaging/freeze/launcher.c`` starts the frozen program. It unpacks the one-file form into a new directory
for each call, with a file ``pid`` that holds the process ID. The installed form has no such file.
"""

from __future__ import annotations

import os
import sys

_MARKER = "pid"
# The launcher and PyInstaller's bootloader set these for themselves.
_OWN_VARIABLES = ("LD_LIBRARY_PATH", "_PYI_ARCHIVE_FILE", "_PYI_PARENT_PROCESS_LEVEL")


def folder() -> str | None:
    """The directory that holds ``bin/`` and ``MANIFEST``; None if the program is not frozen."""
    contents = getattr(sys, "_MEIPASS", None)
    # <directory>/bin/program/_internal
    return os.path.dirname(os.path.dirname(os.path.dirname(contents))) if contents else None


def clean_environment() -> None:
    """Remove the launcher's variables from the environment, so that child processes do not get them.

    The dynamic linker has already read LD_LIBRARY_PATH.
    """
    for name in _OWN_VARIABLES:
        os.environ.pop(name, None)


def remove_extraction_dir() -> None:
    """Remove the directory into which this process was unpacked. Nothing can be imported afterwards."""
    directory = folder()
    if directory is None:
        return
    marker = os.path.join(directory, _MARKER)
    try:
        with open(marker, encoding="ascii") as file:
            if file.read() != f"{os.getpid()}\n":
                return
    except OSError:
        return
    try:
        for entry in os.scandir(directory):
            if entry.name != _MARKER:
                _remove(entry)
        # Last: the launcher never removes a directory without this file.
        os.unlink(marker)
        os.rmdir(directory)
    except OSError:
        pass  # the next call removes the directory


def _remove(entry: os.DirEntry[str]) -> None:
    if not entry.is_dir(follow_symlinks=False):
        os.unlink(entry.path)
        return
    for inner in os.scandir(entry.path):
        _remove(inner)
    os.rmdir(entry.path)
