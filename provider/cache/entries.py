"""The entries of the credential cache: registry tokens, pull checks and failures, as JSON files."""

from __future__ import annotations

import zlib

from provider.cache.tmpfs import FORMAT, CacheUnavailable, Lock, Store, now
from provider.errors import ImdsThrottled, ProviderError
from provider.light_typing import TYPE_CHECKING, NamedTuple
from provider.ocir.credentials import (
    CHECK_NO_IMAGE,
    CHECK_OFF,
    PULL_STATUSES,
    PullCheck,
    RegistryCredentials,
)
from provider.ocir.token import MAX_EXPIRES_IN, Token, is_token

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from provider.image import Image
    from provider.invocation import Invocation
    from provider.log import Log
    from provider.ocir.credentials import PullStatus

# Seconds for which a token counts as new, and a successful pull check as recent. It is shorter than
# UNPROVEN_SECONDS by more than an exchange takes, so that each response for a denied image has a newer token than
# the response before.
NEW_SECONDS = 30
# A token is no longer shared if less than this, and less than half its lifetime, is left of it.
_LEAST_SECONDS = 360
# How long a failure is shared: long enough not to burden OCI, short enough that a fix takes effect soon.
_FAILURE_SECONDS = 5
_THROTTLED_SECONDS = 10
_MAX_CHECKS = 100
# The longest repository name that container runtimes accept (https://github.com/distribution/reference).
_MAX_REPOSITORY = 255


def cache_key(invocation: Invocation) -> str:
    """Return the key of an identity's entries: what proves the identity, and for which endpoint."""
    settings, subject = invocation.settings, invocation.subject
    parts = [settings.ocir_auth_method, settings.registry_protocol, settings.registry_token_path]
    return " ".join(parts if subject is None else [*parts, subject.identity])


class CacheSlot:
    """The file of one entry, and the files that belong to it (their names have a suffix).

    The file name identifies nothing: ``owner`` is stored in the file and compared, so that an owner whose file
    name is the same cannot use it. A file that cannot be read or written is logged, and is a cache miss.
    """

    def __init__(self, store: Store, label: str, owner: Mapping[str, str], log: Log) -> None:
        self._store = store
        self._owner = owner
        self._log = log
        checksum = zlib.crc32(" ".join(owner.values()).encode())
        # Shortened: a host name may be as long as the longest file name.
        self.name = f"v{FORMAT}-{label[:100].replace(':', '_')}-{checksum:08x}"

    def read(self, suffix: str = "") -> dict[str, Any] | None:
        """Return the content of a file; None if there is none of this owner."""
        try:
            content = self._store.read(self.name + suffix)
        except CacheUnavailable as error:
            self._log.cache_unavailable(error)
            return None
        if content is None or any(content.get(key) != value for key, value in self._owner.items()):
            return None
        return content

    def write(self, content: Mapping[str, object], suffix: str = "") -> None:
        """Replace the content of a file."""
        try:
            self._store.write(self.name + suffix, {**content, **self._owner})
        except CacheUnavailable as error:
            self._log.cache_unavailable(error)

    def lock(self) -> Lock | None:
        """Return the lock of the entry; None if the file cannot be used."""
        try:
            return self._store.lock(self.name)
        except CacheUnavailable as error:
            self._log.cache_unavailable(error)
            return None


class _CachedCheck(NamedTuple):
    """The result of a pull check, and when it was made, in seconds since boot."""

    status: PullStatus
    code: str | None
    at: float


class CachedToken(NamedTuple):
    """A token in the cache. ``made`` is when its exchange began, in seconds since boot.

    ``renewed`` is True if the cache had an older token when it was made. ``checks`` are by repository. ``content``
    is its JSON.
    """

    token: Token
    made: float
    principal: str
    renewed: bool
    checks: dict[str, _CachedCheck]
    content: dict[str, Any]

    @property
    def age(self) -> float:
        """Seconds since its exchange began."""
        return now() - self.made

    def credentials(self, check: PullCheck) -> RegistryCredentials:
        """Return the result of a call that gets this token."""
        return RegistryCredentials(self.token, self.principal, check, "shared", self.age)

    def is_proven(self, repository: str) -> bool:
        """Report whether a pull check of ``repository`` allowed a pull with this token, at any time."""
        check = self.checks.get(repository)
        return check is not None and check.status == "allowed"

    @property
    def is_proven_for_any(self) -> bool:
        """Report whether a pull check of any repository allowed a pull with this token."""
        return any(check.status == "allowed" for check in self.checks.values())

    def known_check(self, repository: str) -> PullCheck | None:
        """Return the cached pull check of ``repository``; None if the registry must be asked."""
        check = self.checks.get(repository)
        if check is None:
            return None
        age = now() - check.at
        if check.status == "allowed" and age >= NEW_SECONDS:
            return None
        code = f": {check.code}" if check.code else ""
        text = f"{check.status}{code} ({age:.0f} s ago)"
        return PullCheck(check.status, text, check.code)

    def add_check(self, repository: str, check: PullCheck) -> None:
        """Put a pull check into ``content``."""
        self.content["checks"] = _with_check(self.checks, repository, check)


def token_content(
    credentials: RegistryCredentials, image: Image, renewed: bool
) -> dict[str, object]:
    """Return the JSON of a new token."""
    check = credentials.check
    checked = check not in (CHECK_OFF, CHECK_NO_IMAGE)
    return {
        "token": credentials.token.text,
        "expires_in": credentials.token.expires_in,
        "request_id": credentials.token.request_id,
        "principal": credentials.principal,
        "made": now() - credentials.age,
        "renewed": renewed,
        "checks": _with_check({}, image.repository, check) if checked else {},
    }


def _with_check(
    checks: Mapping[str, _CachedCheck], repository: str, check: PullCheck
) -> dict[str, tuple[PullStatus, str | None, float]]:
    """Return the JSON of ``checks`` plus one, the newest last. The number is limited: pods choose the names."""
    others = {
        name: (old.status, old.code, old.at) for name, old in checks.items() if name != repository
    }
    if len(repository) > _MAX_REPOSITORY:
        return others
    new = repository, (check.status, check.code, now())
    return dict([*list(others.items())[1 - _MAX_CHECKS :], new])


def cached_tokens(content: Mapping[str, Any] | None) -> list[CachedToken]:
    """Parse the usable tokens of an entry, the newest last. Unexpected content is left out."""
    tokens = content.get("tokens") if content else None
    parsed = map(_cached_token, tokens if isinstance(tokens, list) else [])
    return [cached for cached in parsed if cached]


def _cached_token(content: Any) -> CachedToken | None:
    try:
        made = content["made"] + 0.0
        age = now() - made
        text, expires_in = content["token"], content["expires_in"]
        token = Token(text, int(expires_in - age), str(content["request_id"]))
        checks = {
            str(name): _CachedCheck(status, str(code) if code else None, at + 0.0)
            for name, (status, code, at) in content["checks"].items()
        }
        renewed = content["renewed"] is True
        cached = CachedToken(token, made, str(content["principal"]), renewed, checks, content)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    if not is_token(text) or type(expires_in) is not int or expires_in > MAX_EXPIRES_IN:
        return None
    if any(check.status not in PULL_STATUSES for check in checks.values()):
        return None
    # A token from the future is not from this boot.
    if age < 0 or token.expires_in < min(_LEAST_SECONDS, expires_in / 2):
        return None
    return cached


def failure_content(error: ProviderError) -> dict[str, object]:
    """Return the JSON of a failure that other calls share."""
    return {"code": error.code, "message": error.message, "hint": error.hint, "at": now()}


def read_failure(content: Mapping[str, Any] | None) -> tuple[ProviderError, float] | None:
    """Parse a failure, and when it happened, in seconds since boot. None if there is none."""
    if content is None:
        return None
    kinds = {kind.code: kind for kind in ProviderError.__subclasses__()}
    try:
        error = kinds[content["code"]](str(content["message"]), str(content["hint"]))
        return error, float(content["at"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def raise_shared_failure(content: Mapping[str, Any] | None, arrived: float) -> None:
    """Raise the failure in ``content`` if it happened after ``arrived`` or a few seconds ago."""
    failure = read_failure(content)
    if failure:
        error, at = failure
        shared = _THROTTLED_SECONDS if isinstance(error, ImdsThrottled) else _FAILURE_SECONDS
        if arrived <= at <= now() or 0 <= now() - at < shared:
            raise error
