"""The content of the credential cache, for the command ``check``."""

from collections.abc import Mapping
from typing import NamedTuple

from provider.cache.entries import cached_tokens, read_failure
from provider.cache.tmpfs import FORMAT, LOCK_SUFFIX, Store, now
from provider.ocir.token import Token


class CacheEntry(NamedTuple):
    """One entry of the cache, for ``check``: a token, or a failure with this error code.

    ``age`` is in seconds.
    """

    host: str
    principal: str
    age: float
    token: Token | None = None
    failure: str | None = None


def cache_entries(environ: Mapping[str, str]) -> list[CacheEntry]:
    """List the cache without changing it. Raises CacheUnavailable."""
    store = Store.open(environ, make=False)
    entries = []
    for name in store.names():
        if not name.startswith(f"v{FORMAT}-") or name.endswith((LOCK_SUFFIX, ".new")):
            continue
        content = store.read(name)
        if content is None:
            continue  # removed by another call
        host = str(content.get("host", "any registry"))
        if failure := read_failure(content):
            error, at = failure
            entries.append(CacheEntry(host, "", now() - at, failure=error.code))
        for cached in cached_tokens(content):
            entries.append(CacheEntry(host, cached.principal, cached.age, cached.token))
    return entries
