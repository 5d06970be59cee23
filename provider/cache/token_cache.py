"""Single flight: concurrent calls wait for one exchange and share its result.

A booting node makes the kubelet ask for many images of one registry at once, each in a process of
its own. One of them makes the exchange; the others wait for it and share its token, or its failure.

The kubelet keeps each answer for its own image (cacheKeyType Image), so two things decide how long:

* A repository that its own pull check proved is answered for the token's life. The check must be
  recent: a repository is asked about again after 30 s. So a kubelet that was restarted gets a working
  token, even if the dynamic group was deleted and created again after the first check.
* Any other answer is kept until the token is two minutes old. A token that is older than the dynamic
  group is useless for its whole hour, and nothing in the registry's answer tells that from a missing
  policy. So a repository that an older token did not prove gets a new token.

What is shared, and for how long:

* A token is new for 30 s. In this time the registry's answer stands, whatever it is, and nobody makes
  another exchange: any number of denied images cause at most one exchange every 30 s. The kubelet asks
  about a denied image again when the token is two minutes old, and then gets a new token. Therefore a
  repair takes effect within two minutes: each later token that a denied image gets is newer, and no
  answer outlives its token's two minutes.
* In the first 10 s of a token, a repository that it did not prove yet gets it unchecked: thirty pods must
  not wait for thirty more requests that only decide a cache's duration. The kubelet asks again within two
  minutes, and then the repository is checked. But a token that replaces another one is always checked:
  otherwise one denied image, which renews the token every two minutes, would keep all the others from
  ever being proved.
* A new token does not replace one that proved a repository: a token that is proved for one repository
  says nothing about another. The store keeps the last few, and each repository gets the newest token
  that it was proved with.
* If no newer token can be had, the answer is the one that there is, for 10 s: credentials that may
  work are better than none.

A failure is shared with those who waited for it, and for some seconds more: a kubelet whose pods are
in back-off asks a failing plugin some 50 times a minute.

The identity is the same for all registries, and anybody who creates pods chooses their names. So one
call at a time proves an identity, and its failure is shared by all registries. A registry whose region
nobody knows must first accept a connection, and one of them a minute gets as far as the identity.

Locks are taken in one order, the registry's before the identity's. Nothing waits for a registry while
it holds the identity's lock.
"""

import zlib
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from provider.cache.tmpfs import FORMAT, LOCK, Lock, Odd, Store, now
from provider.errors import ImdsThrottled, ProviderError, RegistryUnreachable, Terminated
from provider.image import Image
from provider.net.deadline import Deadline
from provider.ocir.hosts import HTTPS_PORT, RegionInfo, is_known_registry, split_host
from provider.ocir.token import (
    CHECK_NO_IMAGE,
    CHECK_OFF,
    CHECK_SKIPPED,
    MAX_LIFE,
    UNPROVEN_SECONDS,
    Grant,
    PullCheck,
    Token,
    check_without_asking,
    is_token,
)
from provider.settings import Settings

# A token is new for so long, and a pull check recent. Less than UNPROVEN_SECONDS by more than an exchange
# may take, so that each answer to a denied image rests on a newer token than the one before.
NEW_SECONDS = 30
STORM_SECONDS = 10
# A token is shared no more when less than this is left of it, or less than half its life.
LAST_SECONDS = 360
# Long enough to leave OCI in peace, short enough that a repair shows at once.
FAILURE_SECONDS = 5
THROTTLED_SECONDS = 10
# Of the registries in no known region, one in this time gets as far as the identity.
UNKNOWN_SECONDS = 60
_WORDS: dict[bool | None, str] = {True: "allowed", False: "denied", None: "unclear"}
_MAX_TOKENS = 3
_MAX_CHECKS = 100
# The longest name that container runtimes take (github.com/distribution/reference).
_MAX_NAME = 255
# Files beside an entry: the registry's failure; the unknown registry that was admitted last.
_FAILURE = ".failure"
_UNKNOWN = ".unknown"


class Subject(Protocol):
    """Whose identity is proved, when it is not the node's."""

    @property
    def identity(self) -> str:
        """What tokens are shared under: a digest of everything that proves it."""


class Work(Protocol):
    """What goes over the network."""

    def region(self) -> RegionInfo:
        """Ask the metadata service for the instance's region."""

    def reach(self, image: Image) -> None:
        """Connect to the image's registry and send no request."""

    def exchange(self, image: Image, identity: "Identity") -> Grant:
        """Get a new token. ``identity`` is entered while the identity is proved."""

    def check(self, image: Image, token: Token) -> PullCheck:
        """Ask the registry about an image with a token that is there already."""


# It yields what takes note of the instance's region.
Identity = AbstractContextManager[Callable[[RegionInfo], None]]


def instance_region(
    settings: Settings,
    deadline: Deadline,
    environ: Mapping[str, str],
    work: Work,
    odd: Callable[[str], None],
) -> RegionInfo:
    """The instance's region, which never changes: from the store, else from the metadata service.

    Raises what ``work`` raises, also in another process, and DeadlineExceeded.
    """
    if not settings.token_cache:
        return work.region()
    try:
        store = Store.open(environ)
    except Odd as fault:
        odd(str(fault))
        return work.region()
    flight = _Flight(store, _identity(settings, None), now(), deadline, odd)
    known = flight.region()
    if known is None:
        with flight as learn:
            # A call that was waited for left it in the store.
            known = flight.region()
            if known is None:
                known = work.region()
                learn(known)
    return known


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
        return _get_alone(image, settings, work)
    try:
        store = Store.open(environ)
        identity = _identity(settings, subject)
        flight = _Flight(store, identity, now(), deadline, odd)
        shelf = _Shelf(store, image, settings, identity, flight, odd)
        lock = store.lock(shelf.name)
    except Odd as fault:
        odd(str(fault))
        return _get_alone(image, settings, work)
    rejected: dict[str, tuple[_Held, PullCheck]] = {}
    while True:
        try:
            found = _next(shelf, lock, work, image, rejected, deadline)
        except Terminated:
            raise
        except ProviderError as error:
            if not rejected:
                raise
            *_, (held, check) = rejected.values()
            outcome = f"{check.outcome}; no newer token: {error.code}"
            return held.grant(check._replace(outcome=outcome))
        if isinstance(found, Grant):
            return found
        check = _check(shelf, lock, work, image, settings, found)
        # A tool keeps no answer, so its time is the token's alone.
        limit = UNPROVEN_SECONDS if check == CHECK_NO_IMAGE else NEW_SECONDS
        if check.passed or found.age < limit:
            return found.grant(check)
        rejected[found.token.text] = found, check


def registry_of(image: Image, settings: Settings) -> str:
    """The registry as entries name it: in lower case, without https's own port."""
    host = image.host.lower()
    return host.removesuffix(f":{HTTPS_PORT}") if settings.registry_protocol == "https" else host


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
        if not name.startswith(f"v{FORMAT}-") or name.endswith((LOCK, ".new")):
            continue
        content = store.read(name)
        if content is None:
            continue  # taken away meanwhile
        host = str(content.get("host", "any registry"))
        error, at = _failure(content)
        if error is not None:
            entries.append(Shared(host, "", now() - at, failure=error.code))
        for held in _held(content):
            entries.append(Shared(host, held.principal, held.age, held.token.life, held.token))
    return entries


def _next(
    shelf: "_Shelf",
    lock: Lock,
    work: Work,
    image: Image,
    rejected: Collection[str],
    deadline: Deadline,
) -> "Grant | _Held":
    """A shared token that was not rejected, or the result of an exchange."""
    while True:
        held = shelf.find(image.repository, rejected)
        if held is not None:
            return held
        if lock.take():
            try:
                # Another process may have finished between the look and the lock.
                held = shelf.find(image.repository, rejected)
                return held or shelf.exchange(work)
            finally:
                lock.release()
        _wait(lock, deadline, "waiting for the exchange of another call")


def _check(
    shelf: "_Shelf", lock: Lock, work: Work, image: Image, settings: Settings, held: "_Held"
) -> PullCheck:
    """What is known of ``image`` with a shared token, or what the registry says now."""
    check = check_without_asking(image, settings) or held.known(image.repository)
    if check is not None:
        return check
    if held.age < STORM_SECONDS and not held.renewed:
        return CHECK_SKIPPED
    check = work.check(image, held.token)
    if lock.take():
        shelf.note(held, image.repository, check)
        lock.release()
    return check


def _get_alone(image: Image, settings: Settings, work: Work) -> Grant:
    if not is_known_registry(image.host, settings.ocir_hosts):
        work.reach(image)
    return _exchange(work, image, nullcontext(lambda _: None))


def _wait(lock: Lock, deadline: Deadline, doing: str) -> None:
    from provider.net.background import Background

    Background(lock.wait).result(deadline, doing)


def _exchange(work: Work, image: Image, identity: Identity) -> Grant:
    """Make an exchange, and note how old its token is: group membership dates from its beginning."""
    began = now()
    return work.exchange(image, identity)._replace(age=now() - began)


_Result = tuple[bool | None, str | None, float]


class _Held(NamedTuple):
    """A token from the store. ``made`` is when its exchange began, in seconds since boot.

    ``renewed`` is True if the token was made although there was another one. ``checks`` are by
    repository: passed, error code, and when. ``content`` is the entry itself.
    """

    token: Token
    made: float
    principal: str
    renewed: bool
    checks: dict[str, _Result]
    content: dict[str, Any]

    @property
    def age(self) -> float:
        """Seconds since its exchange began."""
        return now() - self.made

    def grant(self, check: PullCheck) -> Grant:
        """The result of a call that gets this token."""
        return Grant(self.token, self.principal, check, "shared", self.age)

    def proved(self, repository: str) -> bool:
        """True if this token passed a pull check of ``repository``, however long ago."""
        return self.checks.get(repository, (None,))[0] is True

    def known(self, repository: str) -> PullCheck | None:
        """What a pull check of ``repository`` said, unless it is to be asked again."""
        if repository not in self.checks:
            return None
        passed, code, at = self.checks[repository]
        if passed and now() - at >= NEW_SECONDS:
            return None
        said = f"{_WORDS[passed]}: {code}" if code else _WORDS[passed]
        return PullCheck(f"{said} ({now() - at:.0f} s ago)", passed, code)


class _Slot:
    """An entry of the store, and the files that belong to it.

    The name is for people; whose the entry is stands in it, and is compared.
    """

    def __init__(
        self, store: Store, what: str, owner: Mapping[str, str], odd: Callable[[str], None]
    ) -> None:
        self._store = store
        self._owner = owner
        self._odd = odd
        checksum = zlib.crc32(" ".join(owner.values()).encode())
        # A host name may be as long as a file name.
        self.name = f"v{FORMAT}-{what[:100].replace(':', '_')}-{checksum:08x}"

    def read(self, suffix: str = "") -> dict[str, Any] | None:
        try:
            content = self._store.read(self.name + suffix)
        except Odd as fault:
            self._odd(str(fault))
            return None
        if content is None or any(content.get(key) != value for key, value in self._owner.items()):
            return None
        return content

    def write(self, content: Mapping[str, object], suffix: str = "") -> None:
        try:
            self._store.write(self.name + suffix, {**content, **self._owner})
        except Odd as fault:
            self._odd(str(fault))

    def lock(self) -> Lock | None:
        try:
            return self._store.lock(self.name)
        except Odd as fault:
            self._odd(str(fault))
            return None


class _Flight:
    """Single flight for proving an identity, whatever the registry. The identity's entry in the store
    says how the last attempt ended.

    A context manager around the attempt. It raises the failure of an attempt that ended since
    ``arrived`` or some seconds before. Calls that waited for one that succeeded go on side by side,
    unless there is an ``admit``: it is called with the lock held, and may refuse.
    """

    def __init__(
        self,
        store: Store,
        identity: str,
        arrived: float,
        deadline: Deadline,
        odd: Callable[[str], None],
    ) -> None:
        self.slot = _Slot(store, "identity", {"identity": identity}, odd)
        self.admit: Callable[[], None] | None = None
        self.arrived = arrived
        # True from the moment when the identity is asked for until it is there.
        self.failing = False
        self._instance = _Slot(store, "instance", {}, odd)
        self._deadline = deadline
        self._lock: Lock | None = None

    def __enter__(self) -> Callable[[RegionInfo], None]:
        self.failing = True
        lock = self.slot.lock()
        while lock and not lock.take():
            _wait(lock, self._deadline, "waiting for another call that asks for the identity")
            # Before the lock is taken again, since that would make the others wait once more.
            if self.raise_shared() >= self.arrived and self.admit is None:
                return self._learn
        self._lock = lock
        try:
            self.raise_shared()
            if self.admit:
                self.admit()
        except ProviderError:
            self._release()
            raise
        return self._learn

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.failing = False
            self.slot.write({"at": now()})
        elif isinstance(error, ProviderError) and not isinstance(error, Terminated):
            self.slot.write(_failed(error))
        self._release()

    def _release(self) -> None:
        if self._lock:
            self._lock.release()
            self._lock = None

    def raise_shared(self) -> float:
        """Raise the shared failure; else return when the last attempt succeeded, 0 if none did."""
        content = self.slot.read()
        _raise_shared(content, self.arrived)
        at = content.get("at") if content else None
        return at if isinstance(at, float) else 0.0

    def region(self) -> RegionInfo | None:
        """The instance's region, once it has been asked for in this boot."""
        content = self._instance.read() or {}
        told = [content.get(field) for field in RegionInfo._fields]
        if all(isinstance(part, str) for part in told):
            return RegionInfo(*map(str, told))
        return None

    def _learn(self, region: RegionInfo) -> None:
        if self.region() is None:
            self._instance.write(region._asdict())


class _Shelf:
    """The store's entries for one registry, auth method and identity: a token, and a failure."""

    def __init__(
        self,
        store: Store,
        image: Image,
        settings: Settings,
        identity: str,
        flight: _Flight,
        odd: Callable[[str], None],
    ) -> None:
        self._store = store
        self._image = image
        self._listed = settings.ocir_hosts
        self._flight = flight
        self._host = registry_of(image, settings)
        self._slot = _Slot(store, self._host, {"host": self._host, "identity": identity}, odd)
        self.name = self._slot.name

    def tokens(self) -> list[_Held]:
        """The tokens that can be used, the newest last."""
        return _held(self._slot.read())

    def find(self, repository: str, rejected: Collection[str]) -> _Held | None:
        """The newest token that was proved with ``repository``, else the newest one.

        Raises the shared failure if all that there are were rejected.
        """
        usable = [held for held in self.tokens() if held.token.text not in rejected]
        if usable:
            proved = [held for held in usable if held.proved(repository)]
            return (proved or usable)[-1]
        _raise_shared(self._slot.read(_FAILURE), self._flight.arrived)
        self._flight.raise_shared()
        return None

    def exchange(self, work: Work) -> Grant:
        """Make the exchange for everybody, and leave its outcome in the store."""
        try:
            if not self._is_known():
                self._flight.admit = self._admit
                work.reach(self._image)
            grant = _exchange(work, self._image, self._flight)
            before = self.tokens()
            proved = [
                held.content for held in before if any(check[0] for check in held.checks.values())
            ]
            kept = proved[-(_MAX_TOKENS - 1) :]
            entry = _entry(grant, self._image, renewed=bool(before))
            self._slot.write({"tokens": [*kept, entry]})
            return grant
        except Terminated:
            raise  # ours alone
        except ProviderError as error:
            if not self._flight.failing:  # else it is the identity's
                self._slot.write(_failed(error), _FAILURE)
            raise
        finally:
            self._store.sweep()

    def _is_known(self) -> bool:
        """True when the name cannot be an invention: a region has it, or it gave a token before."""
        if is_known_registry(self._image.host, self._listed) or self._slot.read():
            return True
        own, split = self._flight.region(), split_host(self._image.host)
        return bool(own and split and own.has_registry(split[0]))

    def _admit(self) -> None:
        """Let one unknown registry in a while get as far as the identity. Raises RegistryUnreachable."""
        if self._is_known():  # the region was learned meanwhile
            return
        last = self._flight.slot.read(_UNKNOWN) or {}
        host, at = last.get("host"), last.get("at")
        recent = isinstance(at, float) and 0 <= now() - at < UNKNOWN_SECONDS
        if recent and host != self._host:
            raise RegistryUnreachable(
                f"no known region has the registry {self._host}, and another such registry was tried"
                f" less than {UNKNOWN_SECONDS} s ago",
                "Check the region in the image's name. If the registry is OCI's, the kubelet's next"
                " tries will reach it; OCIR_HOSTS may list it.",
            )
        self._flight.slot.write({"host": self._host, "at": now()}, _UNKNOWN)

    def note(self, held: _Held, repository: str, check: PullCheck) -> None:
        """Note a pull check, if the token is still there."""
        tokens = self.tokens()
        for other in tokens:
            if other.token.text == held.token.text:
                other.content["checks"] = _noted(other.checks, repository, check)
                self._slot.write({"tokens": [each.content for each in tokens]})


def _entry(grant: Grant, image: Image, renewed: bool) -> dict[str, object]:
    check = grant.check
    asked = check not in (CHECK_OFF, CHECK_NO_IMAGE)
    return {
        "token": grant.token.text,
        "life": grant.token.life,
        "request_id": grant.token.request_id,
        "principal": grant.principal,
        "made": now() - grant.age,
        "renewed": renewed,
        "checks": _noted({}, image.repository, check) if asked else {},
    }


def _noted(checks: Mapping[str, _Result], repository: str, check: PullCheck) -> dict[str, _Result]:
    """``checks`` and one more, the newest last. Bounded, since pods invent names."""
    if len(repository) > _MAX_NAME:
        return dict(checks)
    others = [item for item in checks.items() if item[0] != repository][1 - _MAX_CHECKS :]
    return dict([*others, (repository, (check.passed, check.code, now()))])


def _held(content: Mapping[str, Any] | None) -> list[_Held]:
    """Read an entry's tokens; leaves out what is of no use any more, or not what this program writes."""
    tokens = content.get("tokens") if content else None
    read = map(_held_token, tokens if isinstance(tokens, list) else [])
    return [held for held in read if held]


def _held_token(content: Any) -> _Held | None:
    try:
        made = content["made"] + 0.0
        age = now() - made
        text, life, renewed = content["token"], content["life"], content["renewed"]
        token = Token(text, int(life - age), str(content["request_id"]))
        checks = {
            str(name): (passed, str(code) if code else None, at + 0.0)
            for name, (passed, code, at) in content["checks"].items()
            if passed in _WORDS
        }
        held = _Held(token, made, str(content["principal"]), renewed is True, checks, content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    if not is_token(text) or type(life) is not int or life > MAX_LIFE:
        return None
    # A token from the future was not made in this boot.
    if age < 0 or token.life < min(LAST_SECONDS, life / 2):
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


def _failed(error: ProviderError) -> dict[str, object]:
    return {"code": error.code, "message": error.message, "hint": error.hint, "at": now()}


def _raise_shared(content: Mapping[str, Any] | None, arrived: float) -> None:
    """Raise the failure in ``content``, if it came after ``arrived`` or seconds ago."""
    error, at = _failure(content)
    if error is not None:
        remembered = THROTTLED_SECONDS if isinstance(error, ImdsThrottled) else FAILURE_SECONDS
        if arrived <= at <= now() or 0 <= now() - at < remembered:
            raise error


def _identity(settings: Settings, subject: Subject | None) -> str:
    """Whose tokens these are, and for which endpoint: those of one never serve another."""
    parts = [settings.ocir_auth_method, settings.registry_protocol, settings.registry_token_path]
    return " ".join(parts if subject is None else [*parts, subject.identity])
