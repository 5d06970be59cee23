"""Cells, and what must come of each: derived from the nature of the trouble, not from a list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal

from provider.errors import (
    ClockSkew,
    DeadlineExceeded,
    FederationMalformed,
    FederationRefused,
    FederationUnreachable,
    ImdsThrottled,
    ImdsUnreachable,
    ImdsUnusable,
    ProviderError,
    RegistryUnreachable,
    TlsUntrusted,
    TokenMalformed,
    TokenRefused,
)
from provider.net.retry import RETRY_HINT, SLOW_HINT
from tests.cloud.model import Endpoint, Fault, FaultKind

Asked = Literal[
    "imds.region",
    "imds.cert",
    "imds.key",
    "imds.intermediate",
    "federation",
    "token",
    "manifest",
]
# In the order in which a cold call asks them.
ENDPOINTS: tuple[Asked, ...] = (
    "imds.region",
    "imds.cert",
    "imds.key",
    "imds.intermediate",
    "federation",
    "token",
    "manifest",
)
STORM = 10


@dataclass(frozen=True, slots=True)
class Dns:
    """The resolver's trouble with the endpoint's name."""

    kind: Literal["no server", "no such name", "black hole"]


@dataclass(frozen=True, slots=True)
class Clock:
    """OCI's clock is ahead of ours by so many seconds."""

    ahead: int


Trouble = Fault | Dns | Clock


class Nature(Enum):
    """What a trouble is to whoever must decide what to do about it."""

    HARMLESS = "nothing is wrong with the answer"
    HEALS = "another try gets the answer"
    TRANSIENT = "another try could have got the answer"
    THROTTLED = "the server asks for patience"
    HANGS = "no answer, and no end of it"
    UNTRUSTED = "it cannot prove who it is"
    REFUSED = "it has decided, and will not change its mind"
    MALFORMED = "it answered, and not what was asked for"
    SENSELESS = "it will be no better the next time"
    CLOCK = "our clock is wrong"


# RFC 9110, 15.5.9 and 15.6: these say "not now"; the other 5xx say "not like this".
_PASSING = (408, 500, 502, 503, 504)
_BY_KIND: dict[FaultKind, Nature] = {
    "refused": Nature.TRANSIENT,
    "reset_accept": Nature.TRANSIENT,
    "reset_headers": Nature.TRANSIENT,
    "reset_body": Nature.TRANSIENT,
    "cut_body": Nature.TRANSIENT,
    "black_hole": Nature.HANGS,
    "slow_headers": Nature.HANGS,
    "slow_body": Nature.HANGS,
    "tls_expired": Nature.UNTRUSTED,
    "tls_wrong_name": Nature.UNTRUSTED,
    "tls_unknown_ca": Nature.UNTRUSTED,
    "tls_old": Nature.SENSELESS,
    "endless_headers": Nature.SENSELESS,
    "endless_body": Nature.SENSELESS,
    "huge_body": Nature.SENSELESS,
    "latency": Nature.HARMLESS,
    "content_type": Nature.HARMLESS,
    "redirect": Nature.REFUSED,
    "html": Nature.MALFORMED,
    "invalid_json": Nature.MALFORMED,
    "patch": Nature.MALFORMED,
    "body": Nature.MALFORMED,
}


def nature(trouble: Trouble) -> Nature:
    match trouble:
        case Dns(kind):
            by_answer = {
                "no server": Nature.TRANSIENT,
                "no such name": Nature.SENSELESS,
                "black hole": Nature.HANGS,
            }
            return by_answer[kind]
        case Clock():
            return Nature.CLOCK
    if trouble.times is not None:
        return Nature.HEALS
    if trouble.kind in ("status", "echo"):
        if trouble.status == 429:
            return Nature.THROTTLED
        if trouble.status in _PASSING:
            return Nature.TRANSIENT
        return Nature.SENSELESS if trouble.status >= 500 else Nature.REFUSED
    return _BY_KIND[trouble.kind]


@dataclass(frozen=True, slots=True)
class Cell:
    """One endpoint with one trouble, met by `calls` processes at once."""

    endpoint: Asked
    name: str
    trouble: Trouble
    calls: int

    @property
    def id(self) -> str:
        return f"{self.endpoint}-{self.name}-{self.calls}".replace(" ", "_")

    @property
    def group(self) -> Literal["imds", "federation", "registry"]:
        if self.endpoint.startswith("imds"):
            return "imds"
        return "federation" if self.endpoint == "federation" else "registry"


@dataclass(frozen=True, slots=True)
class Expected:
    """What each call of a cell must come to.

    `error` None: credentials, which the kubelet may keep for long when `proven`. `fewest` and `most`
    bound how often the endpoint was tried, by all calls together.
    """

    error: type[ProviderError] | None
    proven: bool | None  # None: whichever comes first
    fewest: int
    most: int
    deadline: float  # seconds: DEADLINE_SECONDS of the calls
    hint: str = ""  # what the one line must advise


# Four tries at a server, and one more when a connection that was opened early has been closed.
_IMDS_TRIES, _SERVER_TRIES = 6, 5
# Their message says how often it was tried: the only witness where no connection comes about.
UNREACHABLE = (ImdsUnreachable, FederationUnreachable, RegistryUnreachable)


def expected(cell: Cell) -> Expected:
    """The rules: code by step and nature, tries by nature."""
    kind = nature(cell.trouble)
    hangs = kind is Nature.HANGS
    # What hangs is given little time, to keep the matrix short; all tries fit into the other.
    deadline = 3.0 if hangs else 10.0
    if cell.endpoint == "manifest":
        # It only decides how long the kubelet keeps the token: asked once by HEAD, and once by GET for the
        # reason of a refusal; and never a failure.
        # A kept connection that ends early is opened anew; whether a reset comes before or after the
        # whole of an answer that has no body is a matter of luck.
        again = 2 if kind in (Nature.TRANSIENT, Nature.REFUSED) else 1
        torn = isinstance(cell.trouble, Fault) and cell.trouble.kind == "reset_body"
        return Expected(None, None if torn else _proves(cell.trouble), 0, again, 10.0)
    tries = _IMDS_TRIES if cell.group == "imds" else _SERVER_TRIES
    if kind is Nature.HARMLESS:
        return Expected(None, True, 1, 1, deadline)
    if kind is Nature.HEALS:
        assert isinstance(cell.trouble, Fault)
        assert cell.trouble.times is not None
        return Expected(None, True, cell.trouble.times + 1, cell.trouble.times + 1, deadline)
    error = _error(cell.group, kind)
    impatient = kind is Nature.THROTTLED and _patience(cell.trouble) > deadline
    again = kind in (Nature.TRANSIENT, Nature.THROTTLED) and not impatient
    # Who is let wait may ask again within its time; else only what can change is worth another try.
    most = tries if again or hangs else 1
    return Expected(error, False, 2 if again else 1, most, deadline, _hint(cell, error))


def _hint(cell: Cell, error: type[ProviderError]) -> str:
    """The error's own advice; but nobody who was answered shall look for a fault of the network."""
    answered = isinstance(cell.trouble, Fault) and cell.trouble.kind in ("status", "echo")
    if error is DeadlineExceeded and cell.group != "imds":
        # Who was not reached has no address: all other troubles of this nature begin with a connection.
        unreached = FederationUnreachable if cell.group == "federation" else RegistryUnreachable
        return unreached.default_hint if isinstance(cell.trouble, Dns) else SLOW_HINT
    return RETRY_HINT if answered and error in UNREACHABLE else error.default_hint


def _error(group: str, kind: Nature) -> type[ProviderError]:
    unreachable: dict[str, type[ProviderError]] = {
        "imds": ImdsUnreachable,
        "federation": FederationUnreachable,
        "registry": RegistryUnreachable,
    }
    refused: dict[str, type[ProviderError]] = {
        "imds": ImdsUnusable,
        "federation": FederationRefused,
        "registry": TokenRefused,
    }
    malformed: dict[str, type[ProviderError]] = {
        "imds": ImdsUnusable,
        "federation": FederationMalformed,
        "registry": TokenMalformed,
    }
    match kind:
        case Nature.HANGS:
            return DeadlineExceeded
        case Nature.UNTRUSTED:
            return TlsUntrusted
        case Nature.CLOCK:
            return ClockSkew
        case Nature.REFUSED:
            return refused[group]
        case Nature.MALFORMED:
            return malformed[group]
        case Nature.THROTTLED if group == "imds":
            return ImdsThrottled
    return unreachable[group]


def _patience(trouble: Trouble) -> float:
    """What the answer's Retry-After asks for, in seconds."""
    assert isinstance(trouble, Fault)
    return float(dict(trouble.headers).get("Retry-After", 0))


def _proves(trouble: Trouble) -> bool:
    """Whether a manifest's answer reaches the client with status 200: HEAD has no body."""
    assert isinstance(trouble, Fault)
    kinds = ("latency", "content_type", "html", "invalid_json", "body", "endless_body", "huge_body",
             "cut_body", "slow_body")  # fmt: skip
    return trouble.kind in kinds


# --- the troubles ------------------------------------------------------------------------------


def troubles() -> dict[str, Trouble]:
    """Every trouble by name."""
    found: dict[str, Trouble] = {}
    plain: tuple[FaultKind, ...] = (
        "refused",
        "black_hole",
        "reset_accept",
        "reset_headers",
        "reset_body",
        "tls_expired",
        "tls_wrong_name",
        "tls_unknown_ca",
        "tls_old",
        "slow_headers",
        "slow_body",
        "endless_headers",
        "endless_body",
        "huge_body",
        "cut_body",
        "html",
        "invalid_json",
    )
    for kind in plain:
        found[kind.replace("_", " ")] = Fault(kind)
    found["latency"] = Fault("latency", delay_ms=300)
    found["wrong content type"] = Fault("content_type", content_type="text/html")
    statuses = (301, 302, 307, 308, 400, 401, 403, 404, 405, 408, 409, 410, 413, 421, 429, 431, 451,
                500, 501, 502, 503, 504, 505, 507, 508, 511)  # fmt: skip
    for status in statuses:
        away = status < 400
        found[f"{status}"] = (
            Fault("redirect", status=status) if away else Fault("status", status=status)
        )
    found["401 that quotes the request"] = Fault("echo", status=401)
    found["503 that quotes the request"] = Fault("echo", status=503)
    found["429, Retry-After 1"] = Fault("status", status=429, headers=(("Retry-After", "1"),))
    found["429, Retry-After an hour"] = Fault(
        "status", status=429, headers=(("Retry-After", "3600"),)
    )
    for times in (1, 2):
        found[f"503, {times} times"] = Fault("status", status=503, times=times)
    found["429, once"] = Fault("status", status=429, headers=(("Retry-After", "1"),), times=1)
    found["reset, once"] = Fault("reset_headers", times=1)
    found["cut, once"] = Fault("cut_body", times=1)
    for name, body in _BODIES.items():
        found[name] = Fault("body", body=body)
    for name, patch in _PATCHES.items():
        found[name] = Fault("patch", patch=patch)
    for kind_of_dns in ("no server", "no such name", "black hole"):
        found[f"DNS: {kind_of_dns}"] = Dns(kind_of_dns)
    found["clock 10 min ahead"] = Clock(600)
    found["clock 10 min behind"] = Clock(-600)
    return found


_BODIES = {
    "empty body": "",
    "null": "null",
    "a number": "17",
    "a list": "[]",
    "an empty object": "{}",
    "deep nesting": "[" * 20_000,
    "not UTF-8": "\ud83d".encode("utf-8", "surrogatepass").decode("latin-1"),
    "a huge number": json.dumps({"token": "t", "expires_in": 0})[:-2] + "9" * 6000 + "}",
}
# Each is for those endpoints whose answer has such a field.
_PATCHES: dict[str, dict[str, object]] = {
    "empty token": {"token": "", "access_token": ""},
    "token null": {"token": None, "access_token": None},
    "token a number": {"token": 7, "access_token": 7},
    "token a list": {"token": ["t"], "access_token": ["t"]},
    "token with a line break": {"token": "a\r\nX-Injected: 1", "access_token": "a\r\nb"},
    "token beyond ASCII": {"token": "tök", "access_token": "tök"},
    "expires_in negative": {"expires_in": -1},
    "expires_in 0": {"expires_in": 0},
    "expires_in huge": {"expires_in": 10**15},
    "expires_in text": {"expires_in": "3600"},
    "expires_in a fraction": {"expires_in": 0.5},
    "expires_in true": {"expires_in": True},
    "expires_in null": {"expires_in": None},
    "region elsewhere": {"regionIdentifier": "x/../elsewhere.example#"},
    "region of two labels": {"regionIdentifier": "evil.example"},
    "realm domain with a port": {"realmDomainComponent": "elsewhere.example:443"},
    "realm domain with a path": {"realmDomainComponent": "elsewhere.example/"},
    "realm domain an address": {"realmDomainComponent": "0.0.1"},
    "realm domain empty": {"realmDomainComponent": ""},
    "realm domain a list": {"realmDomainComponent": ["oraclecloud.com"]},
}
_FIELDS: dict[Asked, tuple[str, ...]] = {
    "imds.region": ("regionIdentifier", "realmDomainComponent"),
    "federation": ("token",),
    "token": ("token", "expires_in"),
}


def _applies(endpoint: Asked, trouble: Trouble) -> bool:
    encrypted = endpoint in ("federation", "token", "manifest")
    match trouble:
        case Dns():
            return endpoint in ("federation", "token")  # a manifest is asked over a kept connection
        case Clock():
            return endpoint == "federation"  # the first that checks a date
        case Fault(kind="patch"):
            return any(field in trouble.patch for field in _FIELDS.get(endpoint, ()))
        case Fault(kind="cut_body" | "reset_body" | "slow_body") if endpoint == "manifest":
            return trouble.times is None  # HEAD has no body
    if endpoint == "manifest" and trouble.times is not None:
        return False  # asked once
    return encrypted or not trouble.kind.startswith("tls")


def cells() -> Iterator[Cell]:
    """The whole matrix."""
    for name, trouble in troubles().items():
        for endpoint in ENDPOINTS:
            if _applies(endpoint, trouble):
                for calls in (1, STORM):
                    yield Cell(endpoint, name, trouble, calls)


def later_than(endpoint: Asked) -> tuple[Endpoint, ...]:
    """The endpoints that are asked only after `endpoint` has answered well."""
    if endpoint.startswith("imds"):
        return ("federation", "token", "manifest")
    return ENDPOINTS[ENDPOINTS.index(endpoint) + 1 :]


def quick() -> list[Cell]:
    """A slice for every day: each trouble alone at one endpoint, in turns; some of them as storms."""
    chosen = []
    for number, name in enumerate(troubles()):
        alone = [cell for cell in cells() if cell.name == name and cell.calls == 1]
        chosen.append(alone[number % len(alone)])
        if number % 5 == 0:
            storm = alone[(number // 5) % len(alone)]
            chosen.append(Cell(storm.endpoint, storm.name, storm.trouble, STORM))
    return chosen
