"""Image references: what the kubelet (or a person) names.

The kubelet cuts tag and digest off before it asks a plugin; other callers send them. The grammar is
that of github.com/distribution/reference: ``[host[:port]/]path[:tag][@digest]``, tag and digest
both allowed at once.
"""

import re
from typing import NamedTuple

from provider.errors import BadRequest

DEFAULT_HOST = "docker.io"
_MAX_LENGTH = 1024

_HOST = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?", re.A
)
_COMPONENT = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(/{_COMPONENT})*", re.A)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.A)
_DIGEST = re.compile(r"[A-Za-z0-9.+_-]+:[0-9A-Fa-f]{32,}", re.A)


class Image(NamedTuple):
    """A parsed image reference.

    ``host`` is the registry as the reference names it, with its port if one is given: the kubelet
    looks credentials up by exactly that text. ``repository`` is "" where a whole registry is meant.
    """

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def reference(self) -> str:
        """What to ask the registry's manifest endpoint for."""
        return self.digest or self.tag or "latest"


def parse_image(text: str) -> Image:
    """Split an image reference. Raises BadRequest when it is not one."""
    if len(text) > _MAX_LENGTH:
        raise BadRequest(f"the image reference is longer than {_MAX_LENGTH} characters")
    name, at, digest = text.partition("@")
    host, slash, path = name.partition("/")
    # As docker reads it: a first component without dot, port or capital is no host.
    if not slash or (host == host.lower() and host != "localhost" and not set(host) & set(".:")):
        host, path = DEFAULT_HOST, name
    repository, colon, tag = path.partition(":")
    well_formed = (
        _HOST.fullmatch(host)
        and _REPOSITORY.fullmatch(repository)
        and (not colon or _TAG.fullmatch(tag))
        and (not at or _DIGEST.fullmatch(digest))
    )
    if not well_formed:
        raise BadRequest(
            f"{text!r} is not an image reference",
            "An image is written host[:port]/repository[:tag][@digest].",
        )
    return Image(host, repository, tag or None, digest or None)
