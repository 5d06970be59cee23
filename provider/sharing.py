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

The identity is the same for all registries, and anybody who creates pods chooses their names. So one
call at a time proves an identity, and its failure is shared by all registries. A registry whose region
nobody knows must first accept a connection, and one of them a minute gets as far as the identity.

Locks are taken in one order, the registry's before the identity's. Nothing waits for a registry while
it holds the identity's lock.
"""

import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from provider.deadline import Deadline
from provider.errors import ImdsThrottled, ProviderError, RegistryUnreachable, Terminated
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
from provider.realm import HTTPS_PORT, RegionInfo, is_known_registry, split_host
from provider.settings import RESOURCE_PRINCIPAL, USER_PRINCIPAL, Settings
from provider.store import FORMAT, LOCK, Lock, Odd, Store, now

if TYPE_CHECKING:
    from provider.service_account import ServiceAccount

STORM_SECONDS = 10
UNPROVEN_SECONDS = 120
# A token is shared no more when less than this is left of it, or less than half its life.
LAST_SECONDS = 360
# Long enough to leave OCI in peace, short enough that a repair shows at once.
FAILURE_SECONDS = 5
THROTTLED_SECONDS = 10
# Of the registries in no known region, one in this time gets as far as the identity.
UNKNOWN_SECONDS = 60
_MAX_CHECKS = 200
# Files beside an entry: the registry's failure; the unknown registry that was admitted last.
_FAILURE = ".failure"
_UNKNOWN = ".unknown"
_RESOURCE_VARIABLES = "OCI_RESOURCE_PRINCIPAL_"
_DEFAULT_CONFIG_FILE = "~/.oci/config"


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
    flight = _Flight(store, _identity(settings, None, environ), now(), deadline, odd)
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
    account: "ServiceAccount | None",
    deadline: Deadline,
    environ: Mapping[str, str],
    work: Work,
    odd: Callable[[str], None],
) -> Grant:
    """A token for ``image``'s registry: shared when there is one, else by an exchange.

    ``account`` is the service account whose identity is to be proved, if it is one's.
    ``odd`` is told why when the store cannot be used; that is no failure. Raises what ``work``
    raises, also in another process, and DeadlineExceeded.
    """
    if not settings.token_cache:
        return _get_alone(image, settings, work)
    try:
        store = Store.open(environ)
        identity = _identity(settings, account, environ)
        flight = _Flight(store, identity, now(), deadline, odd)
        shelf = _Shelf(store, image, settings, identity, flight, odd)
        lock = store.lock(shelf.name)
    except Odd as fault:
        odd(str(fault))
        return _get_alone(image, settings, work)
    distrusted: str | None = None
    while True:
        held = shelf.find(distrusted)
        if held is None:
            if not lock.take():
                _wait(lock, deadline, "waiting for the exchange of another call")
                continue
            try:
                # Somebody may have finished between the look and the lock.
                held = shelf.find(distrusted)
                if held is None:
                    return shelf.exchange(work)
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
        elif (held := _held(content)) is not None:
            entries.append(Shared(host, held.principal, held.age, held.token.life, held.token))
    return entries


def _get_alone(image: Image, settings: Settings, work: Work) -> Grant:
    if not is_known_registry(image.host, settings.ocir_hosts):
        work.reach(image)
    return work.exchange(image, nullcontext(lambda _: None))


def _wait(lock: Lock, deadline: Deadline, doing: str) -> None:
    from provider.background import Background

    Background(lock.wait).result(deadline, doing)


class _Held(NamedTuple):
    """A token from the store. ``age`` is in seconds; ``checks`` are by repository."""

    token: Token
    age: float
    principal: str
    checks: dict[str, PullCheck]


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

    def find(self, distrusted: str | None) -> _Held | None:
        """The shared token, unless it is the distrusted one. Raises the shared failure."""
        held = _held(self._slot.read())
        if held is not None and held.token.text != distrusted:
            return held
        _raise_shared(self._slot.read(_FAILURE), self._flight.arrived)
        self._flight.raise_shared()
        return None

    def exchange(self, work: Work) -> Grant:
        """Make the exchange for everybody, and leave its outcome in the store."""
        try:
            if not self._is_known():
                self._flight.admit = self._admit
                work.reach(self._image)
            grant = work.exchange(self._image, self._flight)
            self._slot.write(_entry(grant, self._image))
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

    def add_check(self, held: _Held, repository: str, check: PullCheck) -> None:
        """Note a check that passed, if the token is still the same."""
        content = self._slot.read()
        if content is None or content.get("token") != held.token.text:
            return
        checks = dict([*held.checks.items(), (repository, check)][-_MAX_CHECKS:])
        self._slot.write({**content, "proven": True, "checks": checks})


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


def _failed(error: ProviderError) -> dict[str, object]:
    return {"code": error.code, "message": error.message, "hint": error.hint, "at": now()}


def _raise_shared(content: Mapping[str, Any] | None, arrived: float) -> None:
    """Raise the failure in ``content``, if it came after ``arrived`` or seconds ago."""
    error, at = _failure(content)
    if error is not None:
        remembered = THROTTLED_SECONDS if isinstance(error, ImdsThrottled) else FAILURE_SECONDS
        if arrived <= at <= now() or 0 <= now() - at < remembered:
            raise error


def _identity(
    settings: Settings, account: "ServiceAccount | None", environ: Mapping[str, str]
) -> str:
    """Whose tokens these are, and for which endpoint: those of one never serve another."""
    parts = [settings.ocir_auth_method, settings.registry_protocol, settings.registry_token_path]
    if account is not None:
        parts += [account.identity]
    elif settings.ocir_auth_method == RESOURCE_PRINCIPAL:
        import hashlib

        named = sorted(f"{k}={v}" for k, v in environ.items() if k.startswith(_RESOURCE_VARIABLES))
        parts += [hashlib.sha256("\0".join(named).encode()).hexdigest()]
    elif settings.ocir_auth_method == USER_PRINCIPAL:
        import hashlib

        # A profile may name another user tomorrow.
        path = os.path.expanduser(settings.oci_config_file or _DEFAULT_CONFIG_FILE)
        try:
            with open(path, "rb") as file:
                digest = hashlib.sha256(file.read()).hexdigest()
        except OSError:
            digest = "unreadable"
        parts += [path, settings.oci_profile or "DEFAULT", digest]
    return " ".join(parts)
