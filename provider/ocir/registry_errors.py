"""The registry's errors: what an answer that refuses a manifest says about the token. No I/O."""

import json
from typing import TYPE_CHECKING

from provider.ocir.credentials import PullCheck

if TYPE_CHECKING:
    from provider.net.http import Answer

# The error codes that may appear in a message: from the OCI distribution specification, docker/distribution and
# OCI's APIs. No other text from a body is repeated.
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


def judge(answer: "Answer") -> PullCheck:
    """Return the pull check for an answer other than 200 to GET."""
    code = _error_code(answer.body)
    reply = f"{answer.describe()}{f', {code}' if code else ''}"
    match answer.status, code:
        case 404, "MANIFEST_UNKNOWN":
            # Only a principal that may read the repository learns which manifests it has. OCI also answers
            # 404 to principals without permission, so no other 404 proves anything.
            return PullCheck("allowed", "allowed (no such tag)", code, answer.status)
        case 403, "FREE_TIER_NOT_SUPPORTED":
            reason = "this tenancy's tier does not include the registry in this region; a policy does not help"
        case 403, _:
            reason = (
                "the policy or the dynamic group is missing or newer than the token; or the policy covers one"
                " compartment, and the repository does not exist there"
            )
        case 401, _:
            reason = "the registry does not accept the token itself; a policy does not help"
        case _:
            return PullCheck("unclear", f"unclear: {reply}", code, answer.status)
    return PullCheck("denied", f"denied: {reply}; {reason}", code, answer.status)


def _error_code(body: bytes) -> str | None:
    """Return the error code in a registry's or OCI's error body; None if it is missing or unknown."""
    try:
        content = json.loads(body)
        code = content["errors"][0]["code"] if "errors" in content else content["code"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return None
    return code if isinstance(code, str) and code in _CODES else None
