"""OCIR: the token endpoint, and whether a token may pull."""

import json
from typing import TYPE_CHECKING

from provider.errors import ProviderError, TokenMalformed, TokenRefused
from provider.image import Image
from provider.ocir.token import MAX_LIFE, PullCheck, Token, is_token

if TYPE_CHECKING:
    from provider.auth.signer import Signer
    from provider.net.http import Client

# It only decides how long the kubelet keeps the token, and other calls wait for it.
_CHECK_SECONDS = 5.0

# The error codes that a message may name: those of the OCI distribution specification, of
# docker/distribution and of OCI's APIs. Any other text in a body is the server's own, and is not repeated.
_CODES = frozenset(
    (
        *("BLOB_UNKNOWN", "BLOB_UPLOAD_INVALID", "BLOB_UPLOAD_UNKNOWN", "DENIED", "DIGEST_INVALID"),
        *("MANIFEST_BLOB_UNKNOWN", "MANIFEST_INVALID", "MANIFEST_UNKNOWN", "MANIFEST_UNVERIFIED"),
        *("NAME_INVALID", "NAME_UNKNOWN", "SIZE_INVALID", "TAG_INVALID", "TOOMANYREQUESTS"),
        *("UNAUTHORIZED", "UNAVAILABLE", "UNKNOWN", "UNSUPPORTED"),
        *("NotAuthenticated", "NotAuthorized", "NotAuthorizedOrNotFound", "NotFound"),
        "FREE_TIER_NOT_SUPPORTED",
    )
)
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
    """Ask for the image's manifest with the token. Never raises for what the network does: the token is
    there, and the pull itself will tell.

    HEAD is enough if the answer is 200. It has no body, so any other answer is followed by one GET, whose
    error code tells the reason, and whether a 404 proves anything.
    """
    target = f"/v2/{image.repository}/manifests/{image.reference}"
    headers = {"authorization": f"Bearer {token.text}", "accept": _MANIFESTS}
    try:
        for method in ("HEAD", "GET"):
            answer = client.request(
                method, target, lambda: headers, attempts=1, seconds=_CHECK_SECONDS
            )
            if answer.status == 200:
                return PullCheck("allowed", True)
    except ProviderError as error:
        return PullCheck(f"failed: {error.message}", None)
    code = _error_code(answer.body)
    said = f"{answer.describe()}{f', {code}' if code else ''}"
    match answer.status, code:
        case 404, "MANIFEST_UNKNOWN":
            # Only an asker who may read the repository is told which manifests it has. OCI answers 404 to
            # others too, so no other 404 proves anything.
            return PullCheck("allowed (no such tag)", True, code, answer.status)
        case 403, "FREE_TIER_NOT_SUPPORTED":
            reason = "this tenancy's tier or region has no registry, and no policy changes that"
        case 403, _:
            reason = (
                "the policy or the dynamic group is missing, or younger than the token; or, if the policy"
                " covers one compartment, there is no such repository in it"
            )
        case 401, _:
            reason = "the registry does not accept the token itself, and no policy changes that"
        case _:
            return PullCheck(f"unclear: {said}", None, code, answer.status)
    return PullCheck(f"denied: {said}; {reason}", False, code, answer.status)


def _error_code(body: bytes) -> str | None:
    """The error code in a registry's or OCI's error body; None if there is none that is known."""
    try:
        content = json.loads(body)
        code = content["errors"][0]["code"] if "errors" in content else content["code"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return code if isinstance(code, str) and code in _CODES else None
