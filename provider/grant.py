"""What an exchange yields: a registry token, who got it, and what the registry says it is worth."""

import re
from typing import NamedTuple

from provider.image import Image
from provider.settings import Settings

# Seconds; OCIR gives an hour. What says more is not to be believed, and no duration for the kubelet.
MAX_LIFE = 30 * 24 * 3600
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
    """What the registry says of one repository with a token: ``outcome`` for the log.

    ``passed`` None: it was not asked, or its answer proves nothing.
    """

    outcome: str
    passed: bool | None


CHECK_OFF = PullCheck("off", True)
# Any token may read OKE's public images, so asking would prove nothing about the private ones.
CHECK_PUBLIC = PullCheck("public", None)
# Many calls at once, each for another repository: see provider.sharing.
CHECK_SKIPPED = PullCheck("left to a later call", None)


# A tool asks for a whole registry's credentials.
CHECK_NO_IMAGE = PullCheck("no image named", None)


class Grant(NamedTuple):
    """A token for a registry, and how it was come by: ``source`` is fresh or shared."""

    token: Token
    principal: str
    check: PullCheck
    source: str = "fresh"


def check_without_asking(image: Image, settings: Settings) -> PullCheck | None:
    """The pull check's result where the registry need not be asked, else None."""
    if not settings.token_validation:
        return CHECK_OFF
    if not image.repository:
        return CHECK_NO_IMAGE
    return CHECK_PUBLIC if image.is_oke_public else None
