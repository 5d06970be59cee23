"""OCIR: the token endpoint, and whether a token may pull."""

import json
from typing import TYPE_CHECKING

from provider.errors import ProviderError, TokenMalformed, TokenRefused
from provider.grant import MAX_LIFE, PullCheck, Token, is_token
from provider.image import Image

if TYPE_CHECKING:
    from provider.signer import Signer
    from provider.transport import Client

# It only decides how long the kubelet keeps the token, and other calls wait for it.
_CHECK_SECONDS = 5.0

_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


def request_token(client: "Client", path: str, signer: "Signer") -> Token:
    """``GET https://<registry><path>``, signed. Raises TokenRefused, TokenMalformed, ClockSkew.

    The endpoint gives a token to any principal of the tenancy, whatever the policies say; only a
    pull shows what it is worth.
    """
    answer = client.request("GET", path, lambda: signer.sign_get(path, client.origin.netloc))
    if answer.status != 200:
        answer.check_clock()
        redirected = "; redirects are not followed" if 300 <= answer.status < 400 else ""
        raise TokenRefused(f"{answer.describe()}{redirected}")
    try:
        content = json.loads(answer.body)
        text, life = content.get("token") or content["access_token"], content["expires_in"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # No cause attached: it would quote the answer, and with it the token.
        raise TokenMalformed(f"{answer.describe()} without a token and its expires_in") from None
    if not is_token(text):
        raise TokenMalformed(f"{answer.describe()} with an empty or unprintable token")
    if type(life) is not int or not 0 < life <= MAX_LIFE:
        raise TokenMalformed(
            f"{answer.describe()} with an expires_in that is not a number of seconds"
        )
    return Token(text, life, answer.request_id)


def check_pull(client: "Client", image: Image, token: Token) -> PullCheck:
    """HEAD the image's manifest with the token, once. Never raises for what the network does: the
    token is there, and the pull itself will tell.
    """
    target = f"/v2/{image.repository}/manifests/{image.reference}"
    headers = {"authorization": f"Bearer {token.text}", "accept": _MANIFESTS}
    try:
        answer = client.request("HEAD", target, lambda: headers, attempts=1, seconds=_CHECK_SECONDS)
    except ProviderError as error:
        return PullCheck(f"failed: {error.message}", None)
    if answer.status in (200, 404):
        return PullCheck("allowed" if answer.status == 200 else "allowed (no such tag)", True)
    if answer.status in (401, 403):
        return PullCheck(
            f"denied: {answer.describe()}; the policy or the dynamic group is missing, or younger than"
            " the token",
            False,
        )
    return PullCheck(f"unclear: {answer.describe()}", None)
