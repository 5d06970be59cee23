"""The cells and their expected results, which follow from the nature of the fault."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Literal, get_args

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

# In the order of a cold call.
Asked = Literal[
    "imds.region", "imds.cert", "imds.key", "imds.intermediate", "federation", "token", "manifest"
]
ENDPOINTS: tuple[Asked, ...] = get_args(Asked)
STORM = 10


@dataclass(frozen=True, slots=True)
class Dns:
    """The resolver fails for the host name of the endpoint."""

    kind: Literal["no server", "no such name", "black hole"]


@dataclass(frozen=True, slots=True)
class Clock:
    """OCI's clock is ahead of this machine's clock, in seconds."""

    ahead: int


AnyFault = Fault | Dns | Clock


class Nature(Enum):
    """The kind of a fault, which decides what the program should do."""

    HARMLESS = "the answer is valid"
    TEMPORARY = "a retry gets the answer"
    TRANSIENT = "a retry could get the answer"
    THROTTLED = "the server throttles"
    HANGS = "no answer arrives"
    UNTRUSTED = "the certificate is not trusted"
    REFUSED = "the server refuses; a retry cannot help"
    MALFORMED = "the answer is invalid"
    PERMANENT = "a retry would fail again"
    CLOCK = "the clock is wrong"


# RFC 9110, 15.5.9 and 15.6: these mean "not now". The other 5xx mean that a retry would fail again.
_RETRYABLE = (408, 500, 502, 503, 504)
# The faults that have no other fields.
_PLAIN: dict[FaultKind, Nature] = {
    "refused": Nature.TRANSIENT,
    "black_hole": Nature.HANGS,
    "reset_accept": Nature.TRANSIENT,
    "reset_headers": Nature.TRANSIENT,
    "reset_body": Nature.TRANSIENT,
    "tls_expired": Nature.UNTRUSTED,
    "tls_wrong_name": Nature.UNTRUSTED,
    "tls_unknown_ca": Nature.UNTRUSTED,
    "tls_old": Nature.PERMANENT,
    "slow_headers": Nature.HANGS,
    "slow_body": Nature.HANGS,
    "endless_headers": Nature.PERMANENT,
    "endless_body": Nature.PERMANENT,
    "huge_body": Nature.PERMANENT,
    "cut_body": Nature.TRANSIENT,
    "html": Nature.MALFORMED,
    "invalid_json": Nature.MALFORMED,
}
_BY_KIND: dict[FaultKind, Nature] = {
    **_PLAIN,
    "latency": Nature.HARMLESS,
    "content_type": Nature.HARMLESS,
    "redirect": Nature.REFUSED,
    "patch": Nature.MALFORMED,
    "body": Nature.MALFORMED,
}


def nature(fault: AnyFault) -> Nature:
    match fault:
        case Dns(kind):
            by_answer = {
                "no server": Nature.TRANSIENT,
                "no such name": Nature.PERMANENT,
                "black hole": Nature.HANGS,
            }
            return by_answer[kind]
        case Clock():
            return Nature.CLOCK
    if fault.times is not None:
        return Nature.TEMPORARY
    if fault.kind in ("status", "echo"):
        if fault.status == 429:
            return Nature.THROTTLED
        if fault.status in _RETRYABLE:
            return Nature.TRANSIENT
        return Nature.PERMANENT if fault.status >= 500 else Nature.REFUSED
    return _BY_KIND[fault.kind]


@dataclass(frozen=True, slots=True)
class Cell:
    """One endpoint, one fault and a number of parallel calls."""

    endpoint: Asked
    name: str
    fault: AnyFault
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
    """The expected result of each call of a cell.

    `error` None: credentials, with a long cache duration if `proven`. `fewest` and `most` are the limits
    for the number of requests to the endpoint, by all calls together.
    """

    error: type[ProviderError] | None
    proven: bool | None  # None: either
    fewest: int
    most: int
    deadline: float  # DEADLINE_SECONDS of the calls
    hint: str = ""  # the hint in the error


# Four tries for a server, and one more if its preconnected connection was closed.
_IMDS_TRIES, _SERVER_TRIES = 6, 5
# The messages of these errors contain the number of tries, even without a connection.
UNREACHABLE = (ImdsUnreachable, FederationUnreachable, RegistryUnreachable)


def expected(cell: Cell) -> Expected:
    """Return the expected result: the code follows from endpoint and nature, the tries from the nature."""
    kind = nature(cell.fault)
    hangs = kind is Nature.HANGS
    # A short deadline for what hangs keeps the matrix short. All tries fit into the long one.
    deadline = 3.0 if hangs else 10.0
    if cell.endpoint == "manifest":
        # The pull check only decides the cache duration and never fails a call: one HEAD request, and one
        # GET for the reason of a refusal. After an early end, a kept connection is opened again. A reset
        # may come before or after a complete answer without a body.
        again = 2 if kind in (Nature.TRANSIENT, Nature.REFUSED) else 1
        torn = isinstance(cell.fault, Fault) and cell.fault.kind == "reset_body"
        return Expected(None, None if torn else _proves(cell.fault), 0, again, 10.0)
    tries = _IMDS_TRIES if cell.group == "imds" else _SERVER_TRIES
    if kind is Nature.HARMLESS:
        return Expected(None, True, 1, 1, deadline)
    if kind is Nature.TEMPORARY:
        assert isinstance(cell.fault, Fault)
        assert cell.fault.times is not None
        return Expected(None, True, cell.fault.times + 1, cell.fault.times + 1, deadline)
    error = _error(cell.group, kind)
    impatient = kind is Nature.THROTTLED and _patience(cell.fault) > deadline
    again = kind in (Nature.TRANSIENT, Nature.THROTTLED) and not impatient
    # Only a result that can change is retried, and a hanging request within the deadline.
    most = tries if again or hangs else 1
    return Expected(error, False, 2 if again else 1, most, deadline, _hint(cell, error))


def _hint(cell: Cell, error: type[ProviderError]) -> str:
    """Return the hint of the error. After an answer, the hint must not point to the network."""
    answered = isinstance(cell.fault, Fault) and cell.fault.kind in ("status", "echo")
    if error is DeadlineExceeded and cell.group != "imds":
        # Without DNS the server is not reached. All other hanging faults start with a connection.
        unreached = FederationUnreachable if cell.group == "federation" else RegistryUnreachable
        return unreached.default_hint if isinstance(cell.fault, Dns) else SLOW_HINT
    return RETRY_HINT if answered and error in UNREACHABLE else error.default_hint


# The errors for a server that cannot be reached, that refuses, and that answers nonsense.
_ERRORS: dict[str, tuple[type[ProviderError], type[ProviderError], type[ProviderError]]] = {
    "imds": (ImdsUnreachable, ImdsUnusable, ImdsUnusable),
    "federation": (FederationUnreachable, FederationRefused, FederationMalformed),
    "registry": (RegistryUnreachable, TokenRefused, TokenMalformed),
}


def _error(group: str, kind: Nature) -> type[ProviderError]:
    unreachable, refused, malformed = _ERRORS[group]
    match kind:
        case Nature.HANGS:
            return DeadlineExceeded
        case Nature.UNTRUSTED:
            return TlsUntrusted
        case Nature.CLOCK:
            return ClockSkew
        case Nature.REFUSED:
            return refused
        case Nature.MALFORMED:
            return malformed
        case Nature.THROTTLED if group == "imds":
            return ImdsThrottled
    return unreachable


def _patience(fault: AnyFault) -> float:
    """Return the Retry-After of the answer, in seconds."""
    assert isinstance(fault, Fault)
    return float(dict(fault.headers).get("Retry-After", 0))


def _proves(fault: AnyFault) -> bool:
    """Report whether the client gets status 200 for the manifest. HEAD has no body."""
    assert isinstance(fault, Fault)
    kinds = ("latency", "content_type", "html", "invalid_json", "body", "endless_body", "huge_body",
             "cut_body", "slow_body")  # fmt: skip
    return fault.kind in kinds


# --- the faults --------------------------------------------------------------------------------


def faults() -> dict[str, AnyFault]:
    """Return all faults, by name."""
    found: dict[str, AnyFault] = {}
    for kind in _PLAIN:
        found[kind.replace("_", " ")] = Fault(kind)
    found["latency"] = Fault("latency", delay_ms=300)
    found["wrong content type"] = Fault("content_type", content_type="text/html")
    statuses = (301, 302, 307, 308, 400, 401, 403, 404, 405, 408, 409, 410, 413, 421, 429, 431, 451,
                500, 501, 502, 503, 504, 505, 507, 508, 511)  # fmt: skip
    for status in statuses:
        found[f"{status}"] = Fault("redirect" if status < 400 else "status", status=status)
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
# Each applies to the endpoints whose answer has the field.
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


def _applies(endpoint: Asked, fault: AnyFault) -> bool:
    encrypted = endpoint in ("federation", "token", "manifest")
    match fault:
        case Dns():
            # The request for the manifest uses a kept connection.
            return endpoint in ("federation", "token")
        case Clock():
            return endpoint == "federation"  # the first endpoint that checks the date
        case Fault(kind="patch"):
            return any(field in fault.patch for field in _FIELDS.get(endpoint, ()))
        case Fault(kind="cut_body" | "reset_body" | "slow_body") if endpoint == "manifest":
            return fault.times is None  # HEAD has no body
    if endpoint == "manifest" and fault.times is not None:
        return False  # the manifest is requested once
    return encrypted or not fault.kind.startswith("tls")


def cells() -> Iterator[Cell]:
    """Yield all cells."""
    for name, fault in faults().items():
        for endpoint in ENDPOINTS:
            if _applies(endpoint, fault):
                for calls in (1, STORM):
                    yield Cell(endpoint, name, fault, calls)


def later_than(endpoint: Asked) -> tuple[Endpoint, ...]:
    """Return the endpoints that get requests only after `endpoint` has answered."""
    if endpoint.startswith("imds"):
        return ("federation", "token", "manifest")
    return ENDPOINTS[ENDPOINTS.index(endpoint) + 1 :]


def quick() -> list[Cell]:
    """Return a small part of the matrix: each fault at one endpoint in turn, some with parallel calls."""
    chosen = []
    for number, name in enumerate(faults()):
        single = [cell for cell in cells() if cell.name == name and cell.calls == 1]
        chosen.append(single[number % len(single)])
        if number % 5 == 0:
            storm = single[(number // 5) % len(single)]
            chosen.append(Cell(storm.endpoint, storm.name, storm.fault, STORM))
    return chosen
