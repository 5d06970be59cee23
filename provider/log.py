"""The log: journald or syslog, by their sockets.

The kubelet throws a successful plugin's stderr away, and a file would need a place and a rotation.
No caller puts a token, key or certificate into a line.
"""

import os
import re

# The C part alone, since every call logs: the Python part around it takes 2 ms of a warm call's 25.
from _socket import AF_UNIX, SOCK_DGRAM, socket
from collections.abc import Mapping
from contextlib import closing

from provider import __version__

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"
IDENTIFIER = "oke-credential-provider"
# syslog's severities
LEVELS = {"error": 3, "warning": 4, "info": 6, "debug": 7}
_FACILITY_DAEMON = 3 << 3


class Log:
    """Writes structured lines of at least ``level``, and keeps them for --verbose.

    A log that cannot be written is no reason for a pod not to start: such failures are passed over.
    """

    def __init__(self, level: str) -> None:
        self._most = LEVELS[level]
        self.lines: list[str] = []

    def write(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """One line: the message, then each field as ``name=value``; fields without a value are left out.

        Message and values are quoted where they could be read as a further field: they may come from
        a server, or from whoever chose a file's name.
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

    def odd(self, what: str) -> None:
        """Note that tokens cannot be shared, and why."""
        self.write("warning", "tokens are not shared between calls", {"reason": what})


def _printable(value: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(value))


def _quoted(text: str) -> str:
    if re.fullmatch(r'[^\s"=\\]+', text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _send(path: str, datagram: str) -> bool:
    try:
        with closing(socket(AF_UNIX, SOCK_DGRAM)) as sender:
            # Never wait for a log: a full socket loses the line.
            sender.setblocking(False)
            sender.connect(path)
            sender.send(datagram.encode())
    except OSError:
        return False
    return True
