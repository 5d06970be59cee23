"""One exchange at a time, and everybody served: who waits gets what the winner got.

A booting node makes the kubelet ask for many images of one registry at once, each in a process of
its own. One of them makes the exchange; the others wait for it and share its token, or its failure.

How long a token is shared, counted from when it was made:

* proven by a pull check, or checks are off: until it is nearly at its end;
* neither proven nor refuted (public image, unclear answer): 120 s, as long as the kubelet keeps it;
  a token that is older than the dynamic group stays useless, so it must not be kept longer;
* denied: 10 s. That serves those who asked at the same time; a policy made later takes effect as if
  nothing were shared.

Pull checks are per repository. One that passed counts for the token's whole life: the kubelet keeps
the credentials just as long on the strength of it. In the first seconds of a token, a repository
that was not checked gets it unproven (the kubelet asks again after 120 s): thirty pods must not wait
for thirty more requests that only decide a cache's duration.

A failure is shared with those who waited for it, and for some seconds more: a kubelet whose pods are
in back-off asks a failing plugin some 50 times a minute.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from provider.deadline import Deadline
from provider.errors import ImdsThrottled, ProviderError, Terminated
from provider.grant import (
    CHECK_OFF,
    CHECK_SKIPPED,
    MAX_LIFE,
    Grant,
    PullCheck,
    Token,
    check_without_asking,
    is_token,
)
from provider.image import Image
from provider.settings import Settings
from provider.store import FORMAT, Lock, Odd, Store, now

STORM_SECONDS = 10
UNPROVEN_SECONDS = 120
# A token is shared no more when less than this is left of it, or less than half its life.
LAST_SECONDS = 360
# Long enough to leave OCI in peace, short enough that a repair shows at once.
FAILURE_SECONDS = 5
THROTTLED_SECONDS = 10
_MAX_CHECKS = 200


class Subject(Protocol):
    """Whose identity is proved, when it is not the node's."""

    @property
    def identity(self) -> str:
        """What tokens are shared under: a digest of everything that proves it."""


class Work(Protocol):
    """What goes over the network."""

    def exchange(self, image: Image) -> Grant:
        """Get a new token."""

    def check(self, image: Image, token: Token) -> PullCheck:
        """Ask the registry about an image with a token that is there already."""


def get_grant(
    image: Image,
    settings: Settings,
    subject: Subject | None,
    deadline: Deadline,
    environ: Mapping[str, str],
    work: Work,
    odd: Callable[[str], None],
) -> Grant:
    """A token for ``image``'s registry: shared when there is one, else by an exchange.

    ``subject`` is whose identity is proved; None for the node's.
    ``odd`` is told why when the store cannot be used; that is no failure. Raises what ``work``
    raises, also in another process, and DeadlineExceeded.
    """
    if not settings.token_cache:
        return work.exchange(image)
    try:
        store = Store.open(environ)
        shelf = _Shelf(store, image.host.lower(), _identity(settings, subject), odd)
        lock = store.lock(shelf.name)
    except Odd as fault:
        odd(str(fault))
        return work.exchange(image)
    arrived = now()
    distrusted: str | None = None
    while True:
        held = shelf.find(distrusted, arrived)
        if held is None:
            if not lock.take():
                _wait(lock, deadline)
                continue
            try:
                # Somebody may have finished between the look and the lock.
                held = shelf.find(distrusted, arrived)
                if held is None:
                    return shelf.exchange(work, image)
            finally:
                lock.release()
        check = check_without_asking(image, settings) or held.checks.get(image.repository)
        if check is None and held.age < STORM_SECONDS:
            check = CHECK_SKIPPED
        if check is None:
            check = work.check(image, held.token)
            if check.passed is False:
                # The token may be older than the dynamic group; a new one is not.
                distrusted = held.token.text
                continue
            if check.passed and lock.take():
                shelf.add_check(held, image.repository, check)
                lock.release()
        return Grant(held.token, held.principal, check, "shared")


class Shared(NamedTuple):
    """One entry of the store, for a diagnosis: a token, or the failure with this error code.

    ``age`` is in seconds, and so is ``life``, what is left of the token.
    """

    host: str
    principal: str
    age: float
    life: int = 0
    token: Token | None = None
    failure: str | None = None


def shared(environ: Mapping[str, str]) -> list[Shared]:
    """What calls share at present; changes nothing. Raises Odd when the store cannot be used."""
    store = Store.open(environ, make=False)
    entries = []
    for name in store.names():
        if not name.startswith(f"v{FORMAT}-") or name.endswith((".lock", ".new")):
            continue
        content = store.read(name)
        if content is None:
            continue  # taken away meanwhile
        host = str(content.get("host"))
        error, at = _failure(content)
        if error is not None:
            entries.append(Shared(host, "", now() - at, failure=error.code))
        elif (held := _held(content)) is not None:
            entries.append(Shared(host, held.principal, held.age, held.token.life, held.token))
    return entries


def _wait(lock: Lock, deadline: Deadline) -> None:
    from provider.background import Background

    Background(lock.wait).result(deadline, "waiting for the exchange of another call")


class _Held(NamedTuple):
    """A token from the store. ``age`` is in seconds; ``checks`` are by repository."""

    token: Token
    age: float
    principal: str
    checks: dict[str, PullCheck]


class _Shelf:
    """The store's entries for one registry, auth method and identity: a token, and a failure."""

    def __init__(self, store: Store, host: str, identity: str, odd: Callable[[str], None]) -> None:
        self._store = store
        self._owner = {"host": host, "identity": identity}
        self._odd = odd
        # The name is for people; whose the entry is stands in it, and is compared.
        self.name = f"v{FORMAT}-{host.replace(':', '_')}-{zlib.crc32(identity.encode()):08x}"
        self._failure_name = f"{self.name}.failure"

    def find(self, distrusted: str | None, arrived: float) -> _Held | None:
        """The shared token, unless it is the distrusted one. Raises the shared failure."""
        held = _held(self._read(self.name))
        if held is not None and held.token.text != distrusted:
            return held
        error, at = _failure(self._read(self._failure_name))
        if error is not None:
            remembered = THROTTLED_SECONDS if isinstance(error, ImdsThrottled) else FAILURE_SECONDS
            if arrived <= at <= now() or 0 <= now() - at < remembered:
                raise error
        return None

    def exchange(self, work: Work, image: Image) -> Grant:
        """Make the exchange for everybody, and leave its outcome in the store."""
        try:
            grant = work.exchange(image)
        except Terminated:
            raise  # ours alone
        except ProviderError as error:
            failure = {"code": error.code, "message": error.message, "hint": error.hint}
            self._write(self._failure_name, {**failure, "at": now()})
            raise
        self._write(self.name, _entry(grant, image))
        self._store.sweep()
        return grant

    def add_check(self, held: _Held, repository: str, check: PullCheck) -> None:
        """Note a check that passed, if the token is still the same."""
        content = self._read(self.name)
        if content is None or content.get("token") != held.token.text:
            return
        checks = dict([*held.checks.items(), (repository, check)][-_MAX_CHECKS:])
        self._write(self.name, {**content, "proven": True, "checks": checks})

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            content = self._store.read(name)
        except Odd as fault:
            self._odd(str(fault))
            return None
        if content is None or any(content.get(key) != value for key, value in self._owner.items()):
            return None
        return content

    def _write(self, name: str, content: Mapping[str, object]) -> None:
        try:
            self._store.write(name, {**content, **self._owner})
        except Odd as fault:
            self._odd(str(fault))


def _entry(grant: Grant, image: Image) -> dict[str, object]:
    check = grant.check
    asked = check.passed is not None and check != CHECK_OFF
    return {
        "token": grant.token.text,
        "life": grant.token.life,
        "request_id": grant.token.request_id,
        "principal": grant.principal,
        "made": now(),
        "proven": check.passed,
        "checks": {image.repository: check} if asked else {},
    }


def _held(content: Mapping[str, Any] | None) -> _Held | None:
    """Read an entry; None when it is of no use any more, or not what this program writes."""
    if content is None:
        return None
    try:
        age = now() - content["made"]
        text, life, proven = content["token"], content["life"], content["proven"]
        token = Token(text, int(life - age), str(content["request_id"]))
        checks = {str(k): PullCheck(str(o), bool(p)) for k, (o, p) in content["checks"].items()}
        limit = {True: life, None: UNPROVEN_SECONDS, False: STORM_SECONDS}[proven]
        held = _Held(token, age, str(content["principal"]), checks)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    if not is_token(text) or type(life) is not int or life > MAX_LIFE:
        return None
    # A token from the future was not made in this boot.
    if age < 0 or age > limit or token.life < min(LAST_SECONDS, life / 2):
        return None
    return held


def _failure(content: Mapping[str, Any] | None) -> tuple[ProviderError | None, float]:
    kinds = {kind.code: kind for kind in ProviderError.__subclasses__()}
    try:
        assert content is not None
        kind = kinds[content["code"]]
        return kind(str(content["message"]), str(content["hint"])), float(content["at"])
    except (AssertionError, KeyError, TypeError, ValueError, OverflowError):
        return None, 0.0


def _identity(settings: Settings, subject: Subject | None) -> str:
    """Whose tokens these are, and for which endpoint: those of one never serve another."""
    parts = [settings.ocir_auth_method, settings.registry_protocol, settings.registry_token_path]
    return " ".join(parts if subject is None else [*parts, subject.identity])
