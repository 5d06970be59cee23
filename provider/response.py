"""CredentialProviderResponse: what the kubelet is told.

Its decoder is strict: an unknown, duplicate or misspelt field loses the credentials, so does any
text before or after (pkg/credentialprovider/plugin).
"""

import json
from typing import NamedTuple

from provider.request import API_VERSION

KIND = "CredentialProviderResponse"


class Response(NamedTuple):
    """Credentials for one registry, or none. ``cache_seconds`` 0 means that nothing is cached."""

    host: str | None = None
    username: str = ""
    password: str = ""
    cache_seconds: int = 0

    def to_json(self) -> str:
        """One line of JSON.

        The kubelet looks credentials up by the registry as the image names it, so the key is just
        that; cacheKeyType Registry lets them serve all of its images. Without credentials the
        duration is 0s: the kubelet would cache "none" for the whole registry. Durations are plain
        seconds, which Go reads at any length.
        """
        auth = (
            {self.host: {"username": self.username, "password": self.password}} if self.host else {}
        )
        return json.dumps(
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "cacheKeyType": "Registry",
                "cacheDuration": f"{self.cache_seconds}s",
                "auth": auth,
            }
        )


NO_CREDENTIALS = Response()

# A pull may begin in the last second of the cached time, and then fetches layers for minutes; five
# of them are left to it. A short-lived token gives at most half its life away.
_MARGIN_SECONDS = 300
# How long a token is kept that the pull check could not prove good: as long as the original did.
UNPROVEN_SECONDS = 120


def cache_seconds(life: int, proven: bool) -> int:
    """How long the kubelet may keep a token that lives ``life`` seconds from now."""
    safe = max(life - _MARGIN_SECONDS, life // 2)
    return safe if proven else min(safe, UNPROVEN_SECONDS)
