"""The pod's service account, as the token tells of it that the kubelet sends along (KEP-4412)."""

import base64
import hashlib
import json
import re
import time
from typing import NamedTuple

from provider.errors import NoServiceAccountToken

# It becomes a header's value.
_SERVICE_ACCOUNT_TOKEN = re.compile(r"[\w-]{1,20000}(\.[\w-]{1,20000}){2}", re.A)


class ServiceAccount(NamedTuple):
    """An account's token, which is secret, and its claims, which nobody has verified here.

    They are for the log, and for knowing two accounts apart; what the account may do is decided by
    whoever verifies the token. ``expires`` is in Unix seconds.
    """

    token: str
    namespace: str
    name: str
    uid: str
    audience: str
    expires: float

    @property
    def life(self) -> int:
        """Seconds until the token expires, by this machine's clock; at least 1."""
        return max(1, int(self.expires - time.time()))

    @property
    def identity(self) -> str:
        """What tokens got for it are shared under.

        The claims alone would be a promise: a forged token can claim any account. The token's hash
        makes it sure that credentials are shared only with who holds the very token that the
        cluster has verified. A pod's containers do; the pods of one account are served by the
        kubelet's own cache, which knows their account for certain.
        """
        digest = hashlib.sha256(self.token.encode()).hexdigest()
        return f"{self.namespace}/{self.name} {self.uid} {self.audience} {digest}"


def service_account(token: str | None) -> ServiceAccount:
    """Read the claims of a token of Kubernetes' (KEP-1205). Raises NoServiceAccountToken."""
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
            float(int(claims["exp"])),  # a finite one
        )
        texts = account[1:5]
        if not all(isinstance(text, str) and text and text.isprintable() for text in texts):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        # No cause attached: it would quote the token.
        raise NoServiceAccountToken(
            "the request's serviceAccountToken is not a service account's"
        ) from None
    return account
