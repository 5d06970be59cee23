"""What calls of this program share at present."""

import os
from collections.abc import Mapping
from typing import Final

from provider.cache.entries import CacheEntry, cache_entries
from provider.cache.tmpfs import CacheUnavailable, candidate_folders
from provider.cache.token_cache import registry_key
from provider.commands.check import step as steps
from provider.commands.check.step import Step
from provider.errors import RegistryUnreachable
from provider.image import Image
from provider.net.client import Network
from provider.net.deadline import Deadline
from provider.ocir.credentials import PullStatus
from provider.ocir.exchange import registry_origin
from provider.ocir.pull_check import check_pull
from provider.settings import Settings

STORE: Final = "shared tokens"
_SECONDS: Final = 15.0


def look_at_store(
    image: Image | None,
    fresh: Step,
    settings: Settings,
    environ: Mapping[str, str],
) -> Step:
    """What calls share at present; ``fresh`` is what ``try_pull`` said with a new token."""
    there = candidate_folders(environ)
    folder = next(filter(os.path.lexists, there), there[0])
    tried = folder
    if not settings.token_cache:
        return steps.skipped(STORE, "token-cache-off", "TOKEN_CACHE is disabled")
    if os.geteuid() != 0 and os.path.lexists(there[0]):
        return steps.not_visible(STORE, tried, f"{there[0]} is root's", "Run it as root.")
    if not os.path.lexists(folder):
        return steps.ok(STORE, tried, "none yet")
    try:
        entries = cache_entries(environ)
        stale = _stale(entries, image, settings, environ) if fresh.cause == "ok" and image else None
    except CacheUnavailable as fault:
        return steps.warning(
            STORE,
            "store-odd",
            tried,
            f"calls share no tokens, each makes an exchange of its own: {fault}",
            "The folder is made anew by the next call:",
            f"  rm -r {folder}",
        )
    came = "; ".join(map(_told, entries)) or "none at present"
    if stale:
        return steps.warning(
            STORE,
            "token-older-than-policy",
            tried,
            f"{came}; a new token may pull {image.repository if image else ''}, the shared one not:"
            " it is older than the policy or the dynamic group",
            "The kubelet asks again within two minutes, and then gets a new one. Only if the image could be"
            " pulled before, and the dynamic group was deleted and created again, it keeps an old token for"
            " up to 55 minutes, or:",
            "  systemctl restart kubelet",
        )
    return steps.ok(STORE, tried, came)


def _stale(
    entries: list[CacheEntry], image: Image, settings: Settings, environ: Mapping[str, str]
) -> bool:
    origin = registry_origin(image.host, settings)
    host = registry_key(image, settings)
    tokens = [entry.token for entry in entries if entry.token and entry.host == host]
    return bool(tokens) and all(
        check_pull(
            Network(Deadline(_SECONDS), environ).client(origin, RegistryUnreachable), image, token
        ).status
        is PullStatus.DENIED
        for token in tokens
    )


def _told(entry: CacheEntry) -> str:
    age = f"{entry.age:.0f} s old"
    if entry.failure:
        return f"{entry.host}: a failure ({entry.failure}), {age}"
    assert entry.token
    return f"{entry.host}: a token of {entry.principal}, {age}, {entry.token.expires_in} s left"
