"""The pod's service account, read from the token that the kubelet sends
(https://github.com/kubernetes/enhancements/tree/master/keps/sig-auth/4412-projected-service-account-tokens-for-kubelet-image-credential-providers).
"""

import base64
import hashlib
import json
import re
import time
from typing import NamedTuple

from provider.errors import NoServiceAccountToken

# It becomes part of a header.
_SERVICE_ACCOUNT_TOKEN = re.compile(r"[\w-]{1,20000}(\.[\w-]{1,20000}){2}", re.A)


class ServiceAccount(NamedTuple):
    """The token of a service account, which is secret, and its claims, which are not verified here.

    The claims are for the log and the cache key. The server that verifies the token decides what the account
    may do. ``expires`` is in Unix seconds.
    """

    token: str
    namespace: str
    name: str
    uid: str
    audience: str
    expires: float

    @property
    def expires_in(self) -> int:
        """Seconds until the token expires, by this machine's clock; at least 1."""
        return max(1, int(self.expires - time.time()))

    @property
    def identity(self) -> str:
        """The cache key of its registry tokens.

        A forged token can claim any account, so the key contains a digest of the token: registry tokens are
        shared only with callers that have the same token, which the cluster has verified. The containers of
        one pod have the same token. Between pods of one account, the kubelet's own cache shares credentials.
        """
        digest = hashlib.sha256(self.token.encode()).hexdigest()
        return f"{self.namespace}/{self.name} {self.uid} {self.audience} {digest}"


def service_account(token: str | None) -> ServiceAccount:
    """Read the claims of a service-account token
    (https://github.com/kubernetes/enhancements/tree/master/keps/sig-auth/1205-bound-service-account-tokens).
    Raises NoServiceAccountToken.
    """
    if token is None:
        raise NoServiceAccountToken("the kubelet sent no service-account token with the request")
    if not _SERVICE_ACCOUNT_TOKEN.fullmatch(token):
        raise NoServiceAccountToken("the service-account token is not a JSON web token")
    payload = token.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        bound = claims["kubernetes.io"]
        audience = claims["aud"]
        account = ServiceAccount(
            token,
            bound["namespace"],
            bound["serviceaccount"]["name"],
            bound["serviceaccount"]["uid"],
            ",".join([audience] if isinstance(audience, str) else audience),
            float(int(claims["exp"])),  # int: neither infinity nor NaN
        )
        texts = account[1:5]
        if not all(isinstance(text, str) and text and text.isprintable() for text in texts):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        # "from None": the cause quotes the token.
        raise NoServiceAccountToken(
            "the claims of the service-account token are not those of a service account"
        ) from None
    return account
