"""Does an init script lose the kubelet's flags? No I/O."""

import base64
import binascii
import gzip
import io
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from provider.commands.check.step import Step, failed, ok, skipped, warning

INIT_SCRIPT: Final = "init script"
# OKE's scripts that run on a node, and where they are.
_SCRIPTS: Final = {
    "oke-init.sh": "/var/run/oke-init.sh",
    "oke-install.sh": "/etc/oke/oke-install.sh",
}
_EQUALS: Final = "--kubelet-extra-args="
# What may stand before a script's name in a command that runs it.
_RUNNERS: Final = ("bash", "sh", "sudo", "exec", "source", ".", "env", "nohup", "time", "timeout")
_KEYWORDS: Final = ("then", "do", "else", "if", "elif", "while", "until", "!", "{", "-")
_SEPARATORS: Final = frozenset(";&|()")
_MAX_CALL_LINES: Final = 20
_MAX_UNPACKED: Final = 1 << 20


def judge_init_scripts(scripts: Mapping[str, str], flags_set: bool | None) -> Step:
    """Does a script lose the flags by ``--kubelet-extra-args=``? ``flags_set`` None: no kubelet."""
    tried = "the init script in the metadata, /var/run/oke-init.sh, /etc/oke"
    if not scripts:
        return skipped(INIT_SCRIPT, "no-init-script", "there is none that can be read here")
    found = {source: call for source, text in scripts.items() if (call := _lossy_call(text))}
    if not found:
        seen = f"{tried}; seen: {', '.join(scripts)}"
        return ok(INIT_SCRIPT, seen, f"no call with {_EQUALS}")
    report = warning if flags_set else failed
    where = ", ".join(f"{source} line {call.line}" for source, call in found.items())
    script = next(iter(found.values())).script
    return report(
        INIT_SCRIPT,
        "kubelet-extra-args-equals",
        tried,
        f"{where}: {script} drops {_EQUALS} in silence, with all its flags",
        "Write a space in place of the =, in the node pool's init script; new nodes take it:",
        f'  bash {_SCRIPTS[script]} --kubelet-extra-args "<the flags>"',
    )


class _Call(NamedTuple):
    line: int
    script: str


def _lossy_call(text: str) -> _Call | None:
    """The first call of one of OKE's scripts with ``--kubelet-extra-args=``.

    They ignore an argument of that form. `oke bootstrap` takes it, and the scripts themselves contain
    the text, so only a call of a script counts.
    """
    lines = text.splitlines()
    for index, line in enumerate(lines):
        if any(name in line for name in _SCRIPTS):
            for words in _commands(lines[index : index + _MAX_CALL_LINES]):
                script = _script_run(words)
                if script and any(word.startswith(_EQUALS) for word in words):
                    return _Call(index + 1, script)
    return None


def _commands(lines: Sequence[str]) -> Iterator[list[str]]:
    """The simple commands that begin in the first line; they may go on in the next ones."""
    for count in range(1, len(lines) + 1):
        if lines[count - 1].endswith("\\") and count < len(lines):
            continue
        shell = "\n".join(lines[:count]).replace("\\\n", " ")
        lexer = shlex.shlex(shell, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            continue  # a quoted text that does not end here
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= _SEPARATORS:
                yield command
                command = []
            else:
                command.append(word)
        return


def _script_run(words: Sequence[str]) -> str | None:
    """The name of OKE's script that this command runs."""
    rest = list(words)
    while rest and (rest[0] in _KEYWORDS or re.match(r"[A-Za-z_]\w*=", rest[0])):
        del rest[0]
    scripts = [os.path.basename(word) for word in rest if os.path.basename(word) in _SCRIPTS]
    if scripts and os.path.basename(rest[0]) in (*_SCRIPTS, *_RUNNERS):
        return scripts[0]
    return None


def scripts_of_metadata(metadata: Mapping[str, object]) -> dict[str, str]:
    """The scripts in the instance's metadata: ``oke_init_script`` and ``user_data``, base64 both."""
    scripts = {}
    for name in ("oke_init_script", "user_data"):
        value = metadata.get(name)
        text = _unpacked(value) if isinstance(value, str) else None
        if text:
            scripts[f"metadata {name}"] = text
    return scripts


def _unpacked(text: str) -> str | None:
    """Base64, perhaps of gzip (cloud-init takes both), perhaps a MIME archive of parts in base64."""
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
        if data.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(_MAX_UNPACKED)
    except (binascii.Error, ValueError, OSError, EOFError):
        return None
    if not data.lower().startswith((b"content-type:", b"mime-version:")):
        return data.decode("utf-8", "replace")
    from email import message_from_bytes

    parts = (part.get_payload(decode=True) for part in message_from_bytes(data).walk())
    return "\n".join(part.decode("utf-8", "replace") for part in parts if isinstance(part, bytes))
