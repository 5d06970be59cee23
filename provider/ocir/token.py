"""What an exchange yields: a registry token, who got it, and what the registry says it is worth."""

import re
from typing import NamedTuple

from provider.image import Image
from provider.settings import Settings

# Seconds; OCIR gives an hour. What says more is not to be believed, and no duration for the kubelet.
MAX_LIFE = 30 * 24 * 3600
# The age at which a token that no pull check proved is given up. It counts from the exchange and not from
# the answer: what is repaired after the exchange takes effect within this time.
UNPROVEN_SECONDS = 120
# It becomes a header's value and a password.
_TOKEN = re.compile(r"[!-~]{1,65536}", re.A)


class Token(NamedTuple):
    """A registry token. ``text`` is secret. ``life`` is what is left of it, in seconds."""

    text: str
    life: int
    request_id: str


def is_token(text: object) -> bool:
    """True for a text that can be a token: printable, no spaces, not empty."""
    return isinstance(text, str) and bool(_TOKEN.fullmatch(text))


class PullCheck(NamedTuple):
    """Whether a token may pull one repository. ``outcome`` is for the log.

    ``passed`` is None if the registry was not asked, or if its answer proves nothing. ``code`` is the
    error code that the registry sent, if it is a known one, and ``status`` the HTTP status that came with it.
    """

    outcome: str
    passed: bool | None
    code: str | None = None
    status: int | None = None


CHECK_OFF = PullCheck("off", True)
# Many calls at once, each for another repository: see provider.cache.token_cache.
CHECK_SKIPPED = PullCheck("left to a later call", None)
# A tool asks for a whole registry's credentials.
CHECK_NO_IMAGE = PullCheck("no image named", None)


class Grant(NamedTuple):
    """A token for a registry, and where it comes from: ``source`` is fresh or shared.

    ``age`` is the time since its exchange began, in seconds.
    """

    token: Token
    principal: str
    check: PullCheck
    source: str = "fresh"
    age: float = 0.0


def check_without_asking(image: Image, settings: Settings) -> PullCheck | None:
    """The pull check's result where the registry need not be asked, else None."""
    if not settings.token_validation:
        return CHECK_OFF
    return None if image.repository else CHECK_NO_IMAGE
