"""OCIR: the token endpoint, and whether a token may pull."""

import json
import re
from typing import TYPE_CHECKING, NamedTuple

from provider.errors import ProviderError, TokenMalformed, TokenRefused
from provider.image import Image

if TYPE_CHECKING:
    from provider.signer import Signer
    from provider.transport import Client

# The token becomes a header's value and a password.
_TOKEN = re.compile(r"[!-~]{1,65536}", re.A)
_MAX_LIFE = 24 * 3600 * 30

_MANIFESTS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


class Token(NamedTuple):
    """A registry token. ``text`` is secret. ``life`` is in seconds, as observed 3600."""

    text: str
    life: int
    request_id: str


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
    if not isinstance(text, str) or not _TOKEN.fullmatch(text):
        raise TokenMalformed(f"{answer.describe()} with an empty or unprintable token")
    if type(life) is not int or not 0 < life <= _MAX_LIFE:
        raise TokenMalformed(
            f"{answer.describe()} with an expires_in that is not a number of seconds"
        )
    return Token(text, life, answer.request_id)


class PullCheck(NamedTuple):
    """What the registry says of one image with a token: ``outcome`` for the log, ``passed``."""

    outcome: str
    passed: bool


UNCHECKED = PullCheck("off", True)
# OKE's own images: public, and what a booting node pulls first. Any token may read them, so asking
# would prove nothing about the private ones.
PUBLIC = PullCheck("public", False)


def is_oke_public(image: Image) -> bool:
    """True for Oracle's public OKE images (``.../oke-public/...``)."""
    return "oke-public" in image.repository.split("/")


def check_pull(client: "Client", image: Image, token: Token) -> PullCheck:
    """HEAD the image's manifest with the token, once. Never raises for what the network does: the
    token is there, and the pull itself will tell.
    """
    target = f"/v2/{image.repository}/manifests/{image.reference}"
    headers = {"authorization": f"Bearer {token.text}", "accept": _MANIFESTS}
    try:
        answer = client.request("HEAD", target, lambda: headers, attempts=1)
    except ProviderError as error:
        return PullCheck(f"failed: {error.message}", False)
    if answer.status in (200, 404):
        return PullCheck("allowed" if answer.status == 200 else "allowed (no such tag)", True)
    if answer.status in (401, 403):
        return PullCheck(
            f"denied: {answer.describe()}; the policy or the dynamic group is missing, or younger than"
            " the token",
            False,
        )
    return PullCheck(f"unclear: {answer.describe()}", False)
