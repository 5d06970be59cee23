"""The log: journald, or syslog, through their sockets.

The kubelet discards the standard error of a plugin that succeeds, and a log file would need a path and
rotation. Callers must not put a token, key or certificate into a line.
"""

from __future__ import annotations

import os

# The C module: importing the Python module takes 2 ms, and every call logs.
from _socket import AF_UNIX, SOCK_DGRAM, socket

from provider import __version__
from provider.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"
IDENTIFIER = "oke-credential-provider"
# Syslog severities
LEVELS = {"error": 3, "warning": 4, "info": 6, "debug": 7}
_FACILITY_DAEMON = 3 << 3


class Log:
    """Writes structured lines of at least ``level``, and keeps them for --verbose.

    Errors are ignored: a log that cannot be written must not stop a pod from starting.
    """

    def __init__(self, level: str) -> None:
        self._most = LEVELS[level]
        self.lines: list[str] = []

    def write(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """Write the message and then each field as ``name=value``. Fields whose value is None are omitted.

        A message or value that could be read as another field is quoted: it may come from a server, a file
        name or an image name.
        """
        if LEVELS[level] > self._most:
            return
        fields = {**fields, "version": __version__}
        values = {name: _printable(value) for name, value in fields.items() if value is not None}
        pairs = (f"{name}={_quoted(text)}" for name, text in values.items())
        line = " ".join((_quoted(_printable(message)), *pairs))
        self.lines.append(f"{level}: {line}")
        journal = {
            "MESSAGE": line,
            "PRIORITY": LEVELS[level],
            "SYSLOG_IDENTIFIER": IDENTIFIER,
            **{f"OKE_{name.upper()}": text for name, text in values.items()},
        }
        if not _send(JOURNAL, "".join(f"{name}={value}\n" for name, value in journal.items())):
            _send(
                SYSLOG, f"<{_FACILITY_DAEMON | LEVELS[level]}>{IDENTIFIER}[{os.getpid()}]: {line}"
            )

    def cache_unavailable(self, reason: Exception) -> None:
        """Write that the credential cache cannot be used, and why."""
        self.write("warning", "tokens are not shared between calls", {"reason": reason})


def _printable(value: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(value))


def _quoted(text: str) -> str:
    if text and not set(' "=\\') & set(text):  # the only white space in printable text is the space
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _send(path: str, datagram: str) -> bool:
    try:
        sender = socket(AF_UNIX, SOCK_DGRAM)
        try:
            # Without waiting: if the socket is full, the line is lost.
            sender.setblocking(False)
            sender.connect(path)
            sender.send(datagram.encode())
        finally:
            sender.close()
    except OSError:
        return False
    return True
