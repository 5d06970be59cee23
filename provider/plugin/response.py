"""CredentialProviderResponse (https://kubernetes.io/docs/reference/config-api/kubelet-credentialprovider.v1/).

The kubelet's decoder is strict: it rejects unknown, duplicate or misspelled fields, and any text before or after
the JSON.
"""

import json
from typing import NamedTuple

from provider.ocir.credentials import UNPROVEN_SECONDS
from provider.plugin.request import API_VERSION

KIND = "CredentialProviderResponse"


class Response(NamedTuple):
    """Credentials for one registry, or none. ``password`` is secret; ``cache_seconds`` 0 disables caching."""

    host: str | None = None
    username: str = ""
    password: str = ""
    cache_seconds: int = 0

    def to_json(self) -> str:
        """Return one line of JSON.

        The kubelet looks credentials up by the registry as the image names it, so that is the key. With
        cacheKeyType Image it caches them for this image only, so that the duration depends on the image's own
        pull check: a public image, or an image with another policy, would otherwise keep a token in use that
        is useless for other images. Without credentials the duration is 0s, or the kubelet would cache that
        there are none. Durations are in seconds, which Go parses at any length.
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

# A pull may start in the last second of the cached time and then take minutes, so five minutes of the token
# remain. A token with a short lifetime keeps at least half of it.
_MARGIN_SECONDS = 300
# A token that was not proven, and is older than UNPROVEN_SECONDS, is returned only if no newer one can be had.
# The kubelet should soon ask again.
_SHORTEST_SECONDS = 10


def cache_seconds(expires_in: int, proven: bool, age: float = 0) -> int:
    """Return for how many seconds the kubelet may cache a token that expires in ``expires_in`` seconds and is
    ``age`` seconds old. ``proven`` tells whether a pull check allowed the pull.
    """
    safe = max(expires_in - _MARGIN_SECONDS, expires_in // 2)
    return safe if proven else min(safe, max(UNPROVEN_SECONDS - int(age), _SHORTEST_SECONDS))
