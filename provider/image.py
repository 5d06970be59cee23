"""Image references: ``[host[:port]/]path[:tag][@digest]``, as in https://github.com/distribution/reference.

The kubelet removes tag and digest before it calls a plugin; other callers send them.
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

    ``host`` is the registry exactly as the reference has it, including a port: the kubelet looks credentials
    up by that text. ``repository`` is "" if the caller asks for a whole registry.
    """

    host: str
    repository: str
    tag: str | None = None
    digest: str | None = None

    @property
    def reference(self) -> str:
        """The reference for the registry's manifest endpoint: digest, tag or "latest"."""
        return self.digest or self.tag or "latest"


def parse_image(text: str) -> Image:
    """Parse an image reference. Raises BadRequest."""
    if len(text) > _MAX_LENGTH:
        raise BadRequest(f"the image reference is longer than {_MAX_LENGTH} characters")
    name, at, digest = text.partition("@")
    host, slash, path = name.partition("/")
    # As in Docker: a first component without a dot, a port or a capital letter is not a host.
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
            "The form of an image reference is host[:port]/repository[:tag][@digest].",
        )
    return Image(host, repository, tag or None, digest or None)
