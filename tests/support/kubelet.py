"""The kubelet's side of the protocol: its bytes, and its strict reading of the answer.

The reading follows measurements of kubelet 1.36 and shares nothing with the program.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

API_VERSION = "credentialprovider.kubelet.k8s.io/v1"
_FIELDS = {"kind", "apiVersion", "cacheKeyType", "cacheDuration", "auth"}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def request(image: str, **more: object) -> bytes:
    """The line that the kubelet writes to standard input."""
    content = {"kind": "CredentialProviderRequest", "apiVersion": API_VERSION, "image": image}
    return json.dumps({**content, **more}, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the kubelet understood."""

    auth: Mapping[str, tuple[str, str]]
    cache_key_type: str
    cache_seconds: float

    @property
    def password(self) -> str:
        """The one registry's password."""
        ((_, password),) = self.auth.values()
        return password


def read_response(stdout: bytes) -> Credentials:
    """Decode a response as the kubelet does. Raises ValueError for what it would refuse."""
    content = json.loads(stdout.decode("utf-8"), object_pairs_hook=_no_duplicates)
    if not isinstance(content, dict) or set(content) - _FIELDS:
        raise ValueError(f"unknown fields: {set(content) - _FIELDS}")
    if content["kind"] != "CredentialProviderResponse" or content["apiVersion"] != API_VERSION:
        raise ValueError("wrong kind or apiVersion")
    if content["cacheKeyType"] not in ("Image", "Registry", "Global"):
        raise ValueError("did not return a valid cacheKeyType")
    auth = {}
    for host, pair in (content.get("auth") or {}).items():
        if set(pair) != {"username", "password"}:
            raise ValueError("auth has unknown fields")
        auth[host] = (pair["username"], pair["password"])
    return Credentials(auth, content["cacheKeyType"], go_duration(content["cacheDuration"]))


@dataclass
class Kubelet:
    """A kubelet's cache: each answer for its image, on a clock that is set and not waited for.

    ``run`` starts the plugin by a prefix of its command line, with a request on standard input; it
    returns standard output, or None after a failure. ``now`` is in seconds.
    """

    run: Callable[[tuple[str, ...], bytes], bytes | None]
    now: float = 0.0
    calls: int = 0
    _kept: dict[str, tuple[Credentials, float]] = field(default_factory=dict)

    def credentials(self, image: str) -> Credentials | None:
        """The kept answer for ``image``, or a new one; None when the plugin failed."""
        if image in self._kept and self.now < self._kept[image][1]:
            return self._kept[image][0]
        self.calls += 1
        stdout = self.run(later(self.now), request(image))
        if stdout is None:
            return None
        answer = read_response(stdout)
        if answer.cache_key_type != "Image":
            raise ValueError("this kubelet keeps answers by image alone")
        self._kept[image] = answer, self.now + answer.cache_seconds
        return answer

    def expiry(self, image: str) -> float:
        """When the answer for ``image`` is kept no longer."""
        return self._kept[image][1]

    def restart(self) -> None:
        """Forget all answers."""
        self._kept.clear()


def later(seconds: float) -> tuple[str, ...]:
    """A prefix for a command line: the program sees the clock since boot, by which tokens are shared,

    so many seconds ahead.
    """
    return ("unshare", "--time", f"--boottime={seconds:.0f}") if seconds else ()


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("duplicate field")
    return dict(pairs)


def go_duration(text: str) -> float:
    """Seconds of a Go duration string."""
    if not isinstance(text, str) or not re.fullmatch(r"(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+", text):
        raise ValueError(f"not a Go duration: {text!r}")
    return sum(
        float(n) * _UNITS[unit] for n, unit in re.findall(r"([\d.]+)(ns|us|µs|ms|s|m|h)", text)
    )
