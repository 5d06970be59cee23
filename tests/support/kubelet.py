"""The kubelet's side of the protocol: its request, and its strict parser of the response.

The parser follows measurements of kubelet 1.36 and shares no code with the program.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

API_VERSION = "credentialprovider.kubelet.k8s.io/v1"
_FIELDS = {"kind", "apiVersion", "cacheKeyType", "cacheDuration", "auth"}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def request(image: str, **more: object) -> bytes:
    """Return the line that the kubelet writes to standard input."""
    content = {"kind": "CredentialProviderRequest", "apiVersion": API_VERSION, "image": image}
    return json.dumps({**content, **more}, separators=(",", ":")).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Credentials:
    """A response as the kubelet understands it."""

    auth: Mapping[str, tuple[str, str]]
    cache_key_type: str
    cache_seconds: float

    @property
    def password(self) -> str:
        """The password of the only registry in the response."""
        ((_, password),) = self.auth.values()
        return password


def read_response(stdout: bytes) -> Credentials:
    """Parse a response as the kubelet does. Raises ValueError if the kubelet would refuse it."""
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
    """A kubelet's cache: one response per image, with a simulated clock.

    ``run`` starts the plugin with a prefix for its command line and a request on standard input. It
    returns standard output, or None after a failure. ``now`` is in seconds.
    """

    run: Callable[[tuple[str, ...], bytes], bytes | None]
    now: float = 0.0
    calls: int = 0
    _cached: dict[str, tuple[Credentials, float]] = field(default_factory=dict)

    def credentials(self, image: str) -> Credentials | None:
        """Return the cached response for ``image`` or a new one; None if the plugin failed."""
        if image in self._cached and self.now < self._cached[image][1]:
            return self._cached[image][0]
        self.calls += 1
        stdout = self.run(later(self.now), request(image))
        if stdout is None:
            return None
        answer = read_response(stdout)
        if answer.cache_key_type != "Image":
            raise ValueError("this kubelet caches responses by image only")
        self._cached[image] = answer, self.now + answer.cache_seconds
        return answer

    def expiry(self, image: str) -> float:
        """Return when the cached response for ``image`` expires."""
        return self._cached[image][1]

    def restart(self) -> None:
        """Drop all cached responses."""
        self._cached.clear()


def later(seconds: float) -> tuple[str, ...]:
    """Return a command-line prefix that moves the boot clock ahead. The credential cache uses that clock."""
    return ("unshare", "--time", f"--boottime={seconds:.0f}") if seconds else ()


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("duplicate field")
    return dict(pairs)


def go_duration(text: str) -> float:
    """Return the seconds of a Go duration string."""
    if not isinstance(text, str) or not re.fullmatch(r"(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+", text):
        raise ValueError(f"not a Go duration: {text!r}")
    return sum(
        float(n) * _UNITS[unit] for n, unit in re.findall(r"([\d.]+)(ns|us|µs|ms|s|m|h)", text)
    )
