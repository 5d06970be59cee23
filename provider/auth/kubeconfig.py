"""The kubeconfig of the kubelet that started this program: the API server and its CA.

A pod's token is sent to the server that this file names. Therefore the file is used only if root alone can
replace it.
"""

import base64
import json
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from provider.root_only import who_can_replace

_MAX_BYTES = 256 * 1024
# The kubelet uses the first one that exists.
_FLAGS = ("--kubeconfig", "--bootstrap-kubeconfig")


class Unusable(Exception):
    """The file is missing, can be changed by other users, or lacks a value."""


class Kubeconfig(NamedTuple):
    """The API server's host and its CA certificates in PEM; empty if the kubeconfig has none.

    ``source`` is the file, or the reason why there is no usable file.
    """

    host: str
    ca: str
    source: str


def kubelet_command() -> tuple[str, ...]:
    """Return the command line of the kubelet that started this program; empty if the parent process is not
    root's kubelet.
    """
    process = f"/proc/{os.getppid()}"
    try:
        with open(f"{process}/status", "rb") as file:
            users = next(line for line in file if line.startswith(b"Uid:")).split()[1:]
        program = os.path.basename(os.readlink(f"{process}/exe"))
        with open(f"{process}/cmdline", "rb") as file:
            words = os.fsdecode(file.read()).rstrip("\0").split("\0")
    except (OSError, StopIteration):
        return ()
    # Real, effective, saved and file-system UID: a set-UID program has another real UID.
    return tuple(words) if program == "kubelet" and users == [b"0"] * 4 else ()


def flag(command: Sequence[str], name: str) -> str | None:
    """Return the value of a flag in a command line, or None. The last one counts, and the kubelet reads ``_``
    as ``-`` (WordSepNormalizeFunc in
    https://github.com/kubernetes/component-base/blob/master/cli/flag/flags.go).
    """
    value = None
    for word, following in zip(command, (*command[1:], ""), strict=False):
        given, equals, text = word.partition("=")
        if given.replace("_", "-") == name:
            value = text if equals else following
    return value or None


def kubeconfig_of(command: Sequence[str]) -> Kubeconfig:
    """Read the kubeconfig that a kubelet's command line names."""
    reasons = []
    for path in filter(None, (flag(command, name) for name in _FLAGS)):
        try:
            return parse(root_owned(path), path)
        except Unusable as error:
            reasons.append(f"{path}: {error}")
    return Kubeconfig("", "", "; ".join(reasons) or "no kubelet that runs as root names one")


def parse(data: bytes, path: str) -> Kubeconfig:
    """Read the cluster of the current context from a kubeconfig in YAML or JSON. Raises Unusable."""
    content = _load(data)
    try:
        context = _named(content["contexts"], content["current-context"])["context"]
        cluster = _named(content["clusters"], context["cluster"])["cluster"]
        server, inline, file = (
            str(cluster.get(key) or "")
            for key in ("server", "certificate-authority-data", "certificate-authority")
        )
        unverified = bool(cluster.get("insecure-skip-tls-verify"))
    except (KeyError, TypeError, AttributeError) as error:
        raise Unusable("its current context names no cluster") from error
    if unverified:
        raise Unusable("it does not verify the API server")
    return Kubeconfig(_host(server), _authority(inline, file, os.path.dirname(path)), path)


def _load(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        import yaml
    try:
        return yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError):
        # "from None": the cause quotes the file.
        raise Unusable("it is neither YAML nor JSON") from None


def _named(entries: Any, name: Any) -> Any:
    # The first one counts, as in the kubelet.
    return next((entry for entry in entries if entry["name"] == name), None)


def _host(server: str) -> str:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(server)
    except ValueError:
        raise Unusable("its server is not a URL") from None
    if parts.scheme != "https" or not parts.hostname:
        raise Unusable("its server is not an https URL")
    return parts.hostname


def _authority(inline: str, file: str, folder: str) -> str:
    """Return the CA certificates; inline data wins, as in the kubelet."""
    try:
        if inline:
            return base64.b64decode(inline, validate=True).decode("ascii")
        return root_owned(os.path.join(folder, file)).decode("ascii") if file else ""
    except ValueError:
        raise Unusable("its CA is not a PEM certificate") from None


def root_owned(path: str) -> bytes:
    """Read a file that only root can change or replace. Raises Unusable."""
    if not os.path.isabs(path):
        raise Unusable("it is not an absolute path")
    try:
        if others := who_can_replace(path):
            raise Unusable(f"other users can replace it: {others}")
        # O_NONBLOCK: opening a FIFO does not wait for a writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise Unusable(getattr(error, "strerror", None) or "no such path") from error
    if len(data) > _MAX_BYTES:
        raise Unusable(f"it is larger than {_MAX_BYTES} bytes")
    return data
