"""Report the content of the credential cache."""

import os
from collections.abc import Mapping
from typing import Final

from provider.cache.listing import CacheEntry, cache_entries
from provider.cache.tmpfs import CacheUnavailable, candidate_folders
from provider.cache.token_cache import registry_key
from provider.commands.check import step as steps
from provider.commands.check.route import new_client
from provider.commands.check.step import Step
from provider.image import Image
from provider.ocir.exchange import registry_origin
from provider.ocir.pull_check import check_pull
from provider.settings import Settings

CACHE: Final = "shared tokens"


def check_cache(
    image: Image | None, pull: Step, settings: Settings, environ: Mapping[str, str]
) -> Step:
    """List the cached tokens and failures. ``pull`` is the step that used a new token."""
    folders = candidate_folders(environ)
    folder = next(filter(os.path.lexists, folders), folders[0])
    if not settings.token_cache:
        return steps.skipped(CACHE, "token-cache-off", "TOKEN_CACHE is disabled")
    if os.geteuid() != 0 and os.path.lexists(folders[0]):
        result = f"{folders[0]} belongs to root"
        return steps.not_visible(CACHE, folder, result)
    if not os.path.lexists(folder):
        return steps.ok(CACHE, folder, "the cache is empty")
    try:
        entries = cache_entries(environ)
        stale = pull.cause == "ok" and image and _all_denied(entries, image, settings, environ)
    except CacheUnavailable as error:
        return steps.warning(
            CACHE,
            "store-odd",
            folder,
            f"calls cannot use the cache, so each call makes its own exchange: {error}",
            "Remove the folder. The next call creates it again:",
            f"  rm -r {folder}",
        )
    result = "; ".join(map(_describe, entries)) or "the cache is empty"
    if image and stale:
        return steps.warning(
            CACHE,
            "token-older-than-policy",
            folder,
            f"{result}; a new token can pull {image.repository}, but the cached token cannot: it is"
            " older than the policy or the dynamic group",
            "The kubelet calls again within two minutes and then gets a new token. One exception: if the"
            " image could be pulled before, and the dynamic group was deleted and created again, the"
            " kubelet keeps the old token for up to 55 minutes. To get a new one:",
            "  systemctl restart kubelet",
        )
    return steps.ok(CACHE, folder, result)


def _all_denied(
    entries: list[CacheEntry], image: Image, settings: Settings, environ: Mapping[str, str]
) -> bool:
    origin = registry_origin(image.host, settings)
    host = registry_key(image, settings)
    tokens = [entry.token for entry in entries if entry.token and entry.host == host]
    return bool(tokens) and all(
        check_pull(new_client(origin, environ), image, token).status == "denied" for token in tokens
    )


def _describe(entry: CacheEntry) -> str:
    age = f"{entry.age:.0f} s old"
    if entry.failure:
        return f"{entry.host}: a failure ({entry.failure}), {age}"
    assert entry.token
    return f"{entry.host}: a token of {entry.principal}, {age}, {entry.token.expires_in} s left"
