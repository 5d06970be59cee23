"""Find init scripts that lose the kubelet's flags. No I/O."""

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
from provider.commands.node.files import OKE_FOLDER, OKE_INIT, OKE_INSTALL

INIT_SCRIPT: Final = "init script"
# OKE's scripts: name and path on the node.
_SCRIPTS: Final = {os.path.basename(path): path for path in (OKE_INIT, OKE_INSTALL)}
_EQUALS: Final = "--kubelet-extra-args="
# What can precede a script's name in a command that runs it.
_RUNNERS: Final = ("bash", "sh", "sudo", "exec", "source", ".", "env", "nohup", "time", "timeout")
_KEYWORDS: Final = ("then", "do", "else", "if", "elif", "while", "until", "!", "{", "-")
_SEPARATORS: Final = frozenset(";&|()")
_MAX_CALL_LINES: Final = 20
_MAX_DECODED: Final = 1 << 20


def judge_init_scripts(scripts: Mapping[str, str], flags_set: bool | None) -> Step:
    """Find a script that calls OKE's with ``--kubelet-extra-args=``, which OKE's scripts ignore.

    ``flags_set``: the running kubelet has the flags; None if no kubelet runs.
    """
    action = f"the init script in the metadata, {OKE_INIT}, {OKE_FOLDER}"
    if not scripts:
        return skipped(INIT_SCRIPT, "no-init-script", "no readable init script here")
    found = {source: call for source, text in scripts.items() if (call := _lossy_call(text))}
    if not found:
        return ok(INIT_SCRIPT, f"{action}; read: {', '.join(scripts)}", f"no call with {_EQUALS}")
    report = warning if flags_set else failed
    where = ", ".join(f"{source} line {call.line}" for source, call in found.items())
    script = next(iter(found.values())).script
    return report(
        INIT_SCRIPT,
        "kubelet-extra-args-equals",
        action,
        f"{where}: {script} ignores {_EQUALS} and all flags in it, without an error",
        "In the node pool's init script, write a space instead of =. This applies to new nodes:",
        f'  bash {_SCRIPTS[script]} --kubelet-extra-args "<the flags>"',
    )


class _Call(NamedTuple):
    line: int
    script: str


def _lossy_call(text: str) -> _Call | None:
    """The first call of one of OKE's scripts with ``--kubelet-extra-args=``.

    Only calls of the scripts count: `oke bootstrap` accepts this form, and the scripts contain the text.
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
    """The simple commands that begin in the first line. They can continue in the next lines."""
    for count in range(1, len(lines) + 1):
        if lines[count - 1].endswith("\\") and count < len(lines):
            continue
        shell = "\n".join(lines[:count]).replace("\\\n", " ")
        lexer = shlex.shlex(shell, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            continue  # a quoted text continues in the next line
        command: list[str] = []
        for word in [*words, ";"]:
            if set(word) <= _SEPARATORS:
                yield command
                command = []
            else:
                command.append(word)
        return


def _script_run(words: Sequence[str]) -> str | None:
    """The name of the OKE script that this command runs."""
    rest = list(words)
    while rest and (rest[0] in _KEYWORDS or re.match(r"[A-Za-z_]\w*=", rest[0])):
        del rest[0]
    scripts = [os.path.basename(word) for word in rest if os.path.basename(word) in _SCRIPTS]
    if scripts and os.path.basename(rest[0]) in (*_SCRIPTS, *_RUNNERS):
        return scripts[0]
    return None


def scripts_of_metadata(metadata: Mapping[str, object]) -> dict[str, str]:
    """The scripts in the instance's metadata: ``oke_init_script`` and ``user_data``, in base64."""
    scripts = {}
    for name in ("oke_init_script", "user_data"):
        value = metadata.get(name)
        text = _decoded(value) if isinstance(value, str) else None
        if text:
            scripts[f"metadata {name}"] = text
    return scripts


def _decoded(text: str) -> str | None:
    """Decode base64, then gzip and a multi-part MIME archive as cloud-init does."""
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
        if data.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(data)) as file:
                data = file.read(_MAX_DECODED)
    except (binascii.Error, ValueError, OSError, EOFError):
        return None
    if not data.lower().startswith((b"content-type:", b"mime-version:")):
        return data.decode("utf-8", "replace")
    from email import message_from_bytes

    parts = (part.get_payload(decode=True) for part in message_from_bytes(data).walk())
    return "\n".join(part.decode("utf-8", "replace") for part in parts if isinstance(part, bytes))
