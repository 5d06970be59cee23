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
"""

import os
import zlib
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from provider.deadline import Deadline
from provider.errors import ImdsThrottled, ProviderError, Terminated
from provider.grant import (
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
from provider.image import Image
from provider.settings import RESOURCE_PRINCIPAL, USER_PRINCIPAL, Settings
from provider.store import FORMAT, Lock, Odd, Store, now

if TYPE_CHECKING:
    from provider.service_account import ServiceAccount

# A token is new for so long, and a pull check recent. Less than UNPROVEN_SECONDS by more than an exchange
# may take, so that each answer to a denied image rests on a newer token than the one before.
NEW_SECONDS = 30
STORM_SECONDS = 10
# A token is shared no more when less than this is left of it, or less than half its life.
LAST_SECONDS = 360
# Long enough to leave OCI in peace, short enough that a repair shows at once.
FAILURE_SECONDS = 5
THROTTLED_SECONDS = 10
_WORDS: dict[bool | None, str] = {True: "allowed", False: "denied", None: "unclear"}
_MAX_TOKENS = 3
_MAX_CHECKS = 100
# The longest name that container runtimes take (github.com/distribution/reference).
_MAX_NAME = 255
_RESOURCE_VARIABLES = "OCI_RESOURCE_PRINCIPAL_"
_DEFAULT_CONFIG_FILE = "~/.oci/config"


class Work(Protocol):
    """What goes over the network."""

    def exchange(self, image: Image) -> Grant:
        """Get a new token."""

    def check(self, image: Image, token: Token) -> PullCheck:
        """Ask the registry about an image with a token that is there already."""


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
        return _exchange(work, image)
    try:
        store = Store.open(environ)
        shelf = _Shelf(store, image.host.lower(), _identity(settings, account, environ), odd)
        lock = store.lock(shelf.name)
    except Odd as fault:
        odd(str(fault))
        return _exchange(work, image)
    arrived = now()
    rejected: dict[str, tuple[_Held, PullCheck]] = {}
    while True:
        try:
            found = _next(shelf, lock, work, image, rejected, arrived, deadline)
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
        for held in _held(content):
            entries.append(Shared(host, held.principal, held.age, held.token.life, held.token))
    return entries


def _next(
    shelf: "_Shelf",
    lock: Lock,
    work: Work,
    image: Image,
    rejected: Collection[str],
    arrived: float,
    deadline: Deadline,
) -> "Grant | _Held":
    """A shared token that was not rejected, or the result of an exchange."""
    while True:
        held = shelf.find(image.repository, rejected, arrived)
        if held is not None:
            return held
        if lock.take():
            try:
                # Another process may have finished between the look and the lock.
                held = shelf.find(image.repository, rejected, arrived)
                return held or shelf.exchange(work, image)
            finally:
                lock.release()
        _wait(lock, deadline)


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


def _wait(lock: Lock, deadline: Deadline) -> None:
    from provider.background import Background

    Background(lock.wait).result(deadline, "waiting for the exchange of another call")


def _exchange(work: Work, image: Image) -> Grant:
    """Make an exchange, and note how old its token is: group membership dates from its beginning."""
    began = now()
    return work.exchange(image)._replace(age=now() - began)


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


class _Shelf:
    """The store's entries for one registry, auth method and identity: tokens, and a failure."""

    def __init__(self, store: Store, host: str, identity: str, odd: Callable[[str], None]) -> None:
        self._store = store
        self._owner = {"host": host, "identity": identity}
        self._odd = odd
        # The name is for people; whose the entry is stands in it, and is compared.
        self.name = f"v{FORMAT}-{host.replace(':', '_')}-{zlib.crc32(identity.encode()):08x}"
        self._failure_name = f"{self.name}.failure"

    def tokens(self) -> list[_Held]:
        """The tokens that can be used, the newest last."""
        return _held(self._read(self.name))

    def find(self, repository: str, rejected: Collection[str], arrived: float) -> _Held | None:
        """The newest token that was proved with ``repository``, else the newest one.

        Raises the shared failure if all that there are were rejected.
        """
        usable = [held for held in self.tokens() if held.token.text not in rejected]
        if usable:
            proved = [held for held in usable if held.proved(repository)]
            return (proved or usable)[-1]
        error, at = _failure(self._read(self._failure_name))
        if error is not None:
            remembered = THROTTLED_SECONDS if isinstance(error, ImdsThrottled) else FAILURE_SECONDS
            if arrived <= at <= now() or 0 <= now() - at < remembered:
                raise error
        return None

    def exchange(self, work: Work, image: Image) -> Grant:
        """Make the exchange for everybody, and leave its outcome in the store."""
        try:
            grant = _exchange(work, image)
        except Terminated:
            raise  # ours alone
        except ProviderError as error:
            failure = {"code": error.code, "message": error.message, "hint": error.hint}
            self._write(self._failure_name, {**failure, "at": now()})
            raise
        before = self.tokens()
        proved = [
            held.content for held in before if any(check[0] for check in held.checks.values())
        ]
        kept = proved[-(_MAX_TOKENS - 1) :]
        self._write(self.name, {"tokens": [*kept, _entry(grant, image, renewed=bool(before))]})
        self._store.sweep()
        return grant

    def note(self, held: _Held, repository: str, check: PullCheck) -> None:
        """Note a pull check, if the token is still there."""
        tokens = self.tokens()
        for other in tokens:
            if other.token.text == held.token.text:
                other.content["checks"] = _noted(other.checks, repository, check)
                self._write(self.name, {"tokens": [each.content for each in tokens]})

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
