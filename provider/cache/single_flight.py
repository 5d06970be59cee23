"""Single flight for an identity: one call at a time proves it, for all registries.

All registries use the same identity, and users who create pods choose the names of registries. So all
registries share a failure to prove the identity.
"""

from __future__ import annotations

from provider.auth.region import RegionInfo
from provider.cache.entries import CacheSlot, cache_key, failure_content, raise_shared_failure
from provider.cache.tmpfs import Lock, Store, now
from provider.errors import ProviderError, RegistryUnreachable, Terminated
from provider.light_typing import TYPE_CHECKING
from provider.ocir.hosts import is_registry_of

if TYPE_CHECKING:
    from provider.invocation import Invocation

# Seconds. In this time, the identity is proven for only one registry of an unknown region.
_UNKNOWN_SECONDS = 60
# A file next to the identity's entry: the last unknown registry that was admitted.
_UNKNOWN_SUFFIX = ".unknown"


class IdentityFlight:
    """A context manager for the time in which a call proves an identity.

    Entering it waits while another call proves the identity. It raises the failure of an attempt that ended
    after this call began or a few seconds before. Calls that waited for a successful attempt continue in
    parallel. Leaving it stores the result. ``unknown_registry`` is the host of a registry of an unknown region:
    whether it may use the identity is decided with the lock held. ``arrived`` is when the call began.
    """

    def __init__(self, store: Store, invocation: Invocation, arrived: float) -> None:
        self.arrived = arrived
        self.unknown_registry: str | None = None
        # True while the identity is being proven, and after a failure to prove it.
        self.is_proving = False
        identity = cache_key(invocation)
        self._slot = CacheSlot(store, "identity", {"identity": identity}, invocation.log)
        self._instance = CacheSlot(store, "instance", {}, invocation.log)
        self._deadline = invocation.deadline
        self._lock: Lock | None = None

    def __enter__(self) -> IdentityFlight:
        self.is_proving = True
        lock = self._slot.lock()
        while lock and not lock.acquire():
            lock.wait(self._deadline, "waiting for another call that proves the identity")
            # Checked without the lock: acquiring it again would make the other calls wait once more.
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

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
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
        """Return the instance's region if a call since boot has stored it, else None."""
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
            return  # another call has stored its region in the meantime
        last = self._slot.read(_UNKNOWN_SUFFIX) or {}
        admitted, at = last.get("host"), last.get("at")
        recent = isinstance(at, float) and 0 <= now() - at < _UNKNOWN_SECONDS
        if recent and admitted != host:
            raise RegistryUnreachable(
                f"no known region has the registry {host}, and another such registry was tried less than"
                f" {_UNKNOWN_SECONDS} s ago",
                "Check the region in the image's name. If it is correct, a later attempt of the kubelet succeeds."
                " To avoid the wait, add the registry to OCIR_HOSTS.",
            )
        self._slot.write({"host": host, "at": now()}, _UNKNOWN_SUFFIX)

    def _release(self) -> None:
        if self._lock:
            self._lock.release()
            self._lock = None
