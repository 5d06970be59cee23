"""The result of an exchange: registry credentials, and the result of their pull check."""

from __future__ import annotations

from provider.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Literal

    from provider.image import Image
    from provider.ocir.token import Token
    from provider.settings import Settings

    # What a pull check shows about a token and a repository.
    PullStatus = Literal["allowed", "denied", "unclear"]

PULL_STATUSES: tuple[PullStatus, ...] = ("allowed", "denied", "unclear")

# Seconds. A token without a successful pull check is replaced at this age. The age counts from the exchange, so
# that a fix after the exchange takes effect within this time.
UNPROVEN_SECONDS = 120


class PullCheck(NamedTuple):
    """The result of a pull check. ``text`` is for the log.

    ``code`` is the registry's error code, if it is a known one, and ``http_status`` its HTTP status.
    """

    status: PullStatus
    text: str
    code: str | None = None
    http_status: int | None = None


CHECK_OFF = PullCheck("allowed", "off")
# See provider.cache.token_cache.
CHECK_SKIPPED = PullCheck("unclear", "left to a later call")
# A container tool asks for the credentials of a whole registry.
CHECK_NO_IMAGE = PullCheck("unclear", "no image named")


class RegistryCredentials(NamedTuple):
    """A registry token, the principal that got it, and its pull check for one image.

    ``source`` is "fresh" or "shared"; ``age`` is the time in seconds since its exchange began.
    """

    token: Token
    principal: str
    check: PullCheck
    source: str = "fresh"
    age: float = 0.0


def check_without_request(image: Image, settings: Settings) -> PullCheck | None:
    """Return the result of a pull check that needs no request; None if the registry must be asked."""
    if not settings.token_validation:
        return CHECK_OFF
    return None if image.repository else CHECK_NO_IMAGE
