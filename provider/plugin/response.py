"""CredentialProviderResponse: what the kubelet is told.

Its decoder is strict: an unknown, duplicate or misspelt field loses the credentials, so does any
text before or after (pkg/credentialprovider/plugin).
"""

import json
from typing import NamedTuple

from provider.ocir.token import UNPROVEN_SECONDS
from provider.plugin.request import API_VERSION

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
        that. With cacheKeyType Image it keeps them for this image alone, so that each image's duration
        rests on its own pull check: a public image, or one that another policy allows, would otherwise
        keep a token in use that is useless for the rest of the registry. Without credentials the
        duration is 0s: the kubelet would cache "none". Durations are plain seconds, which Go reads at
        any length.
        """
        auth = (
            {self.host: {"username": self.username, "password": self.password}} if self.host else {}
        )
        return json.dumps(
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "cacheKeyType": "Image",
                "cacheDuration": f"{self.cache_seconds}s",
                "auth": auth,
            }
        )


NO_CREDENTIALS = Response()

# A pull may begin in the last second of the cached time, and then fetches layers for minutes; five
# of them are left to it. A short-lived token gives at most half its life away.
_MARGIN_SECONDS = 300
# An older token is only handed out when no newer one can be had. The kubelet should ask again soon.
_SHORTEST_SECONDS = 10


def cache_seconds(life: int, proven: bool, age: float = 0) -> int:
    """How long the kubelet may keep a token that is ``age`` seconds old and lives for ``life`` more."""
    safe = max(life - _MARGIN_SECONDS, life // 2)
    return safe if proven else min(safe, max(UNPROVEN_SECONDS - int(age), _SHORTEST_SECONDS))
