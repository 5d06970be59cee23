"""The registry token, and OCIR's token endpoint."""

from __future__ import annotations

from provider.ascii import GRAPHIC, consists_of
from provider.errors import TokenMalformed, TokenRefused
from provider.light_json import loads
from provider.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from provider.auth.signer import Signer
    from provider.net.client import Client

# Seconds; OCIR's tokens are valid for an hour. A longer lifetime is an error of the server.
MAX_EXPIRES_IN = 30 * 24 * 3600
_LONGEST = 65536


class Token(NamedTuple):
    """A registry token. ``text`` is secret; ``expires_in`` is in seconds."""

    text: str
    expires_in: int
    request_id: str


def is_token(text: object) -> bool:
    """Report whether ``text`` can be a token: printable ASCII without spaces. It becomes part of a header, and
    is the password.
    """
    return isinstance(text, str) and consists_of(text, GRAPHIC, _LONGEST)


def request_token(client: Client, path: str, signer: Signer) -> Token:
    """Send ``GET https://<registry><path>``, signed. Raises TokenRefused, TokenMalformed, ClockSkew,
    RegistryUnreachable, TlsUntrusted, DeadlineExceeded.

    OCIR gives a token to every principal of the tenancy, whatever its policies: only a pull check shows what
    the token may do.
    """
    answer = client.request("GET", path, lambda: signer.sign_get(path, client.origin.netloc))
    if answer.status != 200:
        answer.check_clock()
        redirected = "; redirects are not followed" if 300 <= answer.status < 400 else ""
        raise TokenRefused(f"{answer.describe()}{redirected}")
    try:
        content = loads(answer.body)
        text = content.get("token") or content["access_token"]
        expires_in = content["expires_in"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # "from None": the cause quotes the answer, and with it the token.
        raise TokenMalformed(f"{answer.describe()} without a token and its expires_in") from None
    if not is_token(text):
        raise TokenMalformed(f"{answer.describe()} with an empty or unprintable token")
    if type(expires_in) is not int or not 0 < expires_in <= MAX_EXPIRES_IN:
        raise TokenMalformed(
            f"{answer.describe()} with an expires_in that is not a number of seconds"
        )
    return Token(text, expires_in, answer.request_id)
