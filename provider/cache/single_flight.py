"""Single flight for an identity: one call at a time proves it, for all registries.

The identity is the same for all registries, and whoever creates pods chooses the names of registries. So a
failure of the identity is shared by all registries.
"""

from types import TracebackType

from provider.auth.region import RegionInfo
from provider.cache.entries import CacheSlot, failure_content, raise_shared_failure
from provider.cache.tmpfs import Lock, Store, now
from provider.errors import ProviderError, RegistryUnreachable, Terminated
from provider.invocation import Invocation
from provider.net.deadline import Deadline
from provider.ocir.hosts import is_registry_of

# Seconds. One registry of no known region may ask for the identity in this time.
_UNKNOWN_SECONDS = 60
# A file next to the identity's entry: the last unknown registry that was admitted.
_UNKNOWN_SUFFIX = ".unknown"


class IdentityFlight:
    """A context manager for the time in which a call proves an identity.

    Entering it waits for another call that does so, and raises the failure of an attempt that ended after this
    call began or a few seconds before. Calls that waited for a successful attempt continue in parallel.
    Leaving it stores how the attempt ended. ``unknown_registry`` is the host of a registry of no known region:
    it is admitted with the lock held, and may be refused.
    """

    def __init__(self, store: Store, invocation: Invocation) -> None:
        self.arrived = now()
        self.unknown_registry: str | None = None
        # True while the identity is being proved, and after that failed.
        self.is_proving = False
        identity = cache_key(invocation)
        self._slot = CacheSlot(store, "identity", {"identity": identity}, invocation.log)
        self._instance = CacheSlot(store, "instance", {}, invocation.log)
        self._deadline = invocation.deadline
        self._lock: Lock | None = None

    def __enter__(self) -> "IdentityFlight":
        self.is_proving = True
        lock = self._slot.lock()
        while lock and not lock.acquire():
            wait_for(lock, self._deadline, "waiting for another call that proves the identity")
            # Before the lock is acquired again, because that would make the other calls wait once more.
            if self.last_success() >= self.arrived and self.unknown_registry is None:
                return self
        self._lock = lock
        try:
            self.last_success()
            if self.unknown_registry:
                self._admit(self.unknown_registry)
        except ProviderError:
            self._release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.is_proving = False
            self._slot.write({"at": now()})
        elif isinstance(error, ProviderError) and not isinstance(error, Terminated):
            self._slot.write(failure_content(error))
        self._release()

    def last_success(self) -> float:
        """Return when the last attempt succeeded, in seconds since boot; 0 if none did.

        Raises the shared failure.
        """
        content = self._slot.read()
        raise_shared_failure(content, self.arrived)
        at = content.get("at") if content else None
        return at if isinstance(at, float) else 0.0

    def region(self) -> RegionInfo | None:
        """Return the instance's region, which a call since boot has learned; None otherwise."""
        content = self._instance.read() or {}
        values = [content.get(field) for field in RegionInfo._fields]
        if all(isinstance(value, str) for value in values):
            return RegionInfo(*map(str, values))
        return None

    def remember(self, region: RegionInfo) -> None:
        """Store the instance's region, which never changes."""
        if self.region() is None:
            self._instance.write(region._asdict())

    def _admit(self, host: str) -> None:
        region = self.region()
        if region and is_registry_of(region, host):
            return  # learned after this call looked
        last = self._slot.read(_UNKNOWN_SUFFIX) or {}
        admitted, at = last.get("host"), last.get("at")
        recent = isinstance(at, float) and 0 <= now() - at < _UNKNOWN_SECONDS
        if recent and admitted != host:
            raise RegistryUnreachable(
                f"no known region has the registry {host}, and another such registry was tried less than"
                f" {_UNKNOWN_SECONDS} s ago",
                "Check the region in the image's name. If this is a registry of OCI, the kubelet reaches it"
                " with a later try; or add it to OCIR_HOSTS.",
            )
        self._slot.write({"host": host, "at": now()}, _UNKNOWN_SUFFIX)

    def _release(self) -> None:
        if self._lock:
            self._lock.release()
            self._lock = None


def cache_key(invocation: Invocation) -> str:
    """Return the key of an identity's entries: what proves the identity, and for which endpoint."""
    settings, subject = invocation.settings, invocation.subject
    parts = [settings.ocir_auth_method, settings.registry_protocol, settings.registry_token_path]
    return " ".join(parts if subject is None else [*parts, subject.identity])


def wait_for(lock: Lock, deadline: Deadline, doing: str) -> None:
    """Wait until no call holds ``lock``. Raises DeadlineExceeded."""
    from provider.net.background import Background

    Background(lock.wait).result(deadline, doing)
