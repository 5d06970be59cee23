"""CredentialProviderResponse (https://kubernetes.io/docs/reference/config-api/kubelet-credentialprovider.v1/).

The kubelet's decoder is strict: it rejects unknown, duplicate or misspelled fields, and any text before or after
the JSON.
"""

from __future__ import annotations

from provider.light_json import dumps
from provider.light_typing import NamedTuple
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

        The key of the credentials is the registry as the image names it: the kubelet looks them up by that
        text. cacheKeyType Image makes the kubelet cache them for this image only, so the duration can depend
        on the image's own pull check. Otherwise a public image, or an image with another policy, would keep a
        token in use that is useless for other images. Without credentials the duration is 0s, so that the
        kubelet does not cache their absence. Durations are in whole seconds.
        """
        auth = (
            {self.host: {"username": self.username, "password": self.password}} if self.host else {}
        )
        return dumps(
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "cacheKeyType": "Image",
                "cacheDuration": f"{self.cache_seconds}s",
                "auth": auth,
            }
        )


NO_CREDENTIALS = Response()

# A pull may start in the last second of the cache duration and then take minutes, so the duration ends five
# minutes before the token expires. A short-lived token is cached for half its lifetime.
_MARGIN_SECONDS = 300
# A token without a successful pull check that is older than UNPROVEN_SECONDS is returned only if no newer one is
# available. The kubelet should ask again soon.
_SHORTEST_SECONDS = 10


def cache_seconds(expires_in: int, proven: bool, age: float = 0) -> int:
    """Return for how many seconds the kubelet may cache a token that expires in ``expires_in`` seconds and is
    ``age`` seconds old. ``proven`` tells whether a pull check allowed the pull.
    """
    safe = max(expires_in - _MARGIN_SECONDS, expires_in // 2)
    return safe if proven else min(safe, max(UNPROVEN_SECONDS - int(age), _SHORTEST_SECONDS))
