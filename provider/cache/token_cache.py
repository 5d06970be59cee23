"""The credential cache: concurrent calls wait for one exchange and share its result.

When a node boots, the kubelet asks for many images of one registry at once and starts one process for each.
One of them makes the exchange; the others wait for it and share its token, or its failure.

The kubelet caches each response for its own image (cacheKeyType Image). How long depends on the pull check:

* If the pull check of its own repository allowed the pull, for the lifetime of the token. The check must be at
  most 30 s old. So a restarted kubelet gets a working token, even if the dynamic group was deleted and created
  again after the first check.
* Otherwise, until the token is two minutes old. A token that is older than the dynamic group is useless for its
  whole hour, and no response of the registry distinguishes this from a missing policy. So if the pull check
  fails with an older token, the call gets a new one.

What is shared, and for how long:

* For 30 s, a token is new: each result of a pull check is accepted, and no call makes another exchange. So any
  number of denied images of a registry cause at most one exchange every 30 s. The kubelet asks again about a
  denied image when its token is two minutes old, and then gets a new token. So a fix takes effect within two
  minutes.
* In the first 10 s of a token, a repository gets it without a pull check: thirty pods must not wait for thirty
  requests that decide only how long a response is cached. The kubelet asks again within two minutes, and then the
  repository is checked. A token that replaces another one is always checked: otherwise one denied image, which
  renews the token every two minutes, would keep all others unproven.
* A new token does not replace one that is proven for a repository, which means that a pull check allowed a pull
  with it: this says nothing about other repositories. The cache keeps the last three tokens, and a repository
  gets the newest token that is proven for it.
* If no newer token is available, the response has the cached token, for at least 10 s: credentials that may work
  are better than none.

A failure is shared with the calls that waited for it, and for some seconds more: a kubelet whose pods are in
back-off calls a failing plugin about 50 times a minute.

Users who create pods choose the names of registries. A registry of an unknown region must first complete a TLS
handshake, and only one of them per minute may use the identity (see ``single_flight``).

Locks are taken in one order: the registry's before the identity's. No call waits for a registry while it holds
the identity's lock.
"""

from __future__ import annotations

from provider.cache.entries import (
    NEW_SECONDS,
    CachedToken,
    CacheSlot,
    cache_key,
    cached_tokens,
    failure_content,
    raise_shared_failure,
    token_content,
)
from provider.cache.tmpfs import CacheUnavailable, Lock, Store, now
from provider.errors import ProviderError, Terminated
from provider.light_typing import TYPE_CHECKING
from provider.net.hostname import HTTPS_PORT, split_host
from provider.ocir.credentials import (
    CHECK_NO_IMAGE,
    CHECK_SKIPPED,
    UNPROVEN_SECONDS,
    PullCheck,
    RegistryCredentials,
    check_without_request,
)
from provider.ocir.hosts import is_known_registry, is_registry_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from provider.auth.region import RegionInfo
    from provider.cache.single_flight import IdentityFlight
    from provider.image import Image
    from provider.invocation import Invocation
    from provider.settings import Settings

_UNCHECKED_SECONDS = 10
_MAX_TOKENS = 3
# A file next to a registry's entry: its last failure.
_FAILURE_SUFFIX = ".failure"


def instance_region(invocation: Invocation) -> RegionInfo:
    """Return the instance's region from the cache, or from IMDS.

    Raises Imds*, also for a failure of another call, and DeadlineExceeded.
    """
    from provider.ocir import exchange

    if not invocation.settings.token_cache:
        return exchange.instance_region(invocation.deadline)
    try:
        store = Store.open(invocation.environ)
    except CacheUnavailable as error:
        invocation.log.cache_unavailable(error)
        return exchange.instance_region(invocation.deadline)
    from provider.cache.single_flight import IdentityFlight

    flight = IdentityFlight(store, invocation._replace(subject=None), now())
    known = flight.region()
    if known is None:
        with flight:
            # A call that this one waited for may have stored it.
            known = flight.region()
            if known is None:
                known = exchange.instance_region(invocation.deadline)
                flight.remember(known)
    return known


def get_or_fetch(image: Image, invocation: Invocation) -> RegistryCredentials:
    """Return credentials for the registry of ``image``: from the cache, or from an exchange.

    A cache that cannot be used is logged, and is not an error. Raises the ProviderError of the exchange, even
    if another call made it, and DeadlineExceeded.
    """
    if not invocation.settings.token_cache:
        return _fetch_uncached(image, invocation)
    try:
        store = Store.open(invocation.environ)
        cache = _RegistryCache(store, image, invocation)
        lock = store.lock(cache.name)
    except CacheUnavailable as error:
        invocation.log.cache_unavailable(error)
        return _fetch_uncached(image, invocation)
    rejected: dict[str, tuple[CachedToken, PullCheck]] = {}
    while True:
        try:
            found = _find_or_fetch(cache, lock, rejected, invocation)
        except Terminated:
            raise
        except ProviderError as error:
            if not rejected:
                raise
            *_, (cached, check) = rejected.values()
            text = f"{check.text}; no newer token: {error.code}"
            return cached.credentials(check._replace(text=text))
        if isinstance(found, RegistryCredentials):
            return found
        check = _check(cache, lock, image, invocation, found)
        # A container tool does not cache the token, so it may get an older one.
        limit = UNPROVEN_SECONDS if check == CHECK_NO_IMAGE else NEW_SECONDS
        if check.status == "allowed" or found.age < limit:
            return found.credentials(check)
        rejected[found.token.text] = found, check


def registry_key(image: Image, settings: Settings) -> str:
    """Return the registry's name in cache entries: in lower case, without the default port of https."""
    host = image.host.lower()
    return host.removesuffix(f":{HTTPS_PORT}") if settings.registry_protocol == "https" else host


def _find_or_fetch(
    cache: _RegistryCache, lock: Lock, rejected: Collection[str], invocation: Invocation
) -> CachedToken | RegistryCredentials:
    """Return a cached token that was not rejected, or the result of an exchange."""
    while True:
        if cached := cache.find(rejected):
            return cached
        if lock.acquire():
            try:
                # Another call may have finished between the lookup and the lock.
                return cache.find(rejected) or cache.fetch()
            finally:
                lock.release()
        lock.wait(invocation.deadline, "waiting for the exchange of another call")


def _check(
    cache: _RegistryCache, lock: Lock, image: Image, invocation: Invocation, cached: CachedToken
) -> PullCheck:
    """Return the pull check of ``image`` with a cached token: a recent one, or a new one."""
    check = check_without_request(image, invocation.settings)
    check = check or cached.known_check(image.repository)
    if check is not None:
        return check
    if cached.age < _UNCHECKED_SECONDS and not cached.renewed:
        return CHECK_SKIPPED
    from provider.ocir import exchange

    check = exchange.check_token(image, invocation, cached.token)
    if lock.acquire():
        cache.add_check(cached, check)
        lock.release()
    return check


def _fetch_uncached(image: Image, invocation: Invocation) -> RegistryCredentials:
    from provider.ocir import exchange

    if not is_known_registry(image.host, invocation.settings.ocir_hosts):
        exchange.connect(image, invocation)
    proof = exchange.prove_identity(image, invocation)
    return exchange.get_credentials(image, invocation, proof)


class _RegistryCache:
    """The cache entries of one registry and identity: tokens, and the last failure."""

    def __init__(self, store: Store, image: Image, invocation: Invocation) -> None:
        self._store = store
        self._image = image
        self._invocation = invocation
        self._arrived = now()
        self._host = registry_key(image, invocation.settings)
        owner = {"host": self._host, "identity": cache_key(invocation)}
        self._slot = CacheSlot(store, self._host, owner, invocation.log)
        self.name = self._slot.name
        self._identity_flight: IdentityFlight | None = None

    @property
    def _flight(self) -> IdentityFlight:
        if self._identity_flight is None:
            from provider.cache.single_flight import IdentityFlight

            self._identity_flight = IdentityFlight(self._store, self._invocation, self._arrived)
        return self._identity_flight

    def find(self, rejected: Collection[str]) -> CachedToken | None:
        """Return the newest token that is proven for the repository, or else the newest token.

        Raises the shared failure if there is no token that was not rejected.
        """
        usable = [each for each in self._tokens() if each.token.text not in rejected]
        if usable:
            proven = [each for each in usable if each.is_proven(self._image.repository)]
            return (proven or usable)[-1]
        raise_shared_failure(self._slot.read(_FAILURE_SUFFIX), self._arrived)
        self._flight.last_success()
        return None

    def fetch(self) -> RegistryCredentials:
        """Make the exchange, and store its result for other calls. Raises ProviderError."""
        try:
            credentials = self._exchange()
            before = self._tokens()
            proven = [each.content for each in before if each.is_proven_for_any]
            new = token_content(credentials, self._image, renewed=bool(before))
            self._slot.write({"tokens": [*proven[-(_MAX_TOKENS - 1) :], new]})
            return credentials
        except Terminated:
            raise  # concerns only this call
        except ProviderError as error:
            if not self._flight.is_proving:  # otherwise it is the identity's failure
                self._slot.write(failure_content(error), _FAILURE_SUFFIX)
            raise
        finally:
            self._store.sweep()

    def add_check(self, cached: CachedToken, check: PullCheck) -> None:
        """Store a pull check of the image, if the token is still in the cache."""
        tokens = self._tokens()
        for each in tokens:
            if each.token.text == cached.token.text:
                each.add_check(self._image.repository, check)
                self._slot.write({"tokens": [token.content for token in tokens]})

    def _tokens(self) -> list[CachedToken]:
        return cached_tokens(self._slot.read())

    def _exchange(self) -> RegistryCredentials:
        from provider.ocir import exchange

        image, invocation = self._image, self._invocation
        if not self._is_known():
            exchange.connect(image, invocation)
            self._flight.unknown_registry = self._host
        # The age of a token counts from here: it reflects the dynamic groups of this moment.
        began = now()
        with self._flight as flight:
            proof = exchange.prove_identity(image, invocation)
            if proof.principal.region:
                flight.remember(proof.principal.region)
        credentials = exchange.get_credentials(image, invocation, proof)
        return credentials._replace(age=now() - began)

    def _is_known(self) -> bool:
        """Report whether the registry is known: it is listed, a region has it, or it issued a token before."""
        listed = self._invocation.settings.ocir_hosts
        if is_known_registry(self._image.host, listed) or self._slot.read():
            return True
        own, split = self._flight.region(), split_host(self._image.host)
        return bool(own and split and is_registry_of(own, split[0]))
