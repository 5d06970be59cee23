"""Image references: ``[host[:port]/]path[:tag][@digest]``, as in https://github.com/distribution/reference.

The kubelet removes tag and digest before it calls a plugin; other callers send them.
"""

from __future__ import annotations

from provider.ascii import ALNUM, DIGITS, HEX, LOWER_ALNUM, consists_of
from provider.errors import BadRequest
from provider.light_typing import NamedTuple

DEFAULT_HOST = "docker.io"
_MAX_LENGTH = 1024

_SEPARATORS = frozenset("._-")
# Turns all but the separators into spaces.
_SPACED = str.maketrans(dict.fromkeys(LOWER_ALNUM, " "))


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
        _is_host(host)
        and all(map(_is_component, repository.split("/")))
        and (not colon or _is_tag(tag))
        and (not at or _is_digest(digest))
    )
    if not well_formed:
        raise BadRequest(
            f"{text!r} is not an image reference",
            "The form of an image reference is host[:port]/repository[:tag][@digest].",
        )
    return Image(host, repository, tag or None, digest or None)


def _is_host(text: str) -> bool:
    """A name or an address in brackets, with a port or without."""
    address, bracket, rest = text.rpartition("]")
    if bracket:
        well_formed = address[:1] == "[" and consists_of(address[1:], HEX | {":", "."})
        colon, port = rest[:1], rest[1:]
    else:
        name, colon, port = text.partition(":")
        well_formed = name[:1] in ALNUM and consists_of(name, ALNUM | {".", "-"})
    return well_formed and (not colon or (colon == ":" and consists_of(port, DIGITS, 5)))


def _is_component(text: str) -> bool:
    """Letters and digits. Between two of them may be a separator: one dot, one or two underscores, or dashes."""
    return (
        consists_of(text, LOWER_ALNUM | _SEPARATORS)
        and not {text[0], text[-1]} & _SEPARATORS
        and all(
            separator in (".", "_", "__") or not separator.strip("-")
            for separator in text.translate(_SPACED).split()
        )
    )


def _is_tag(text: str) -> bool:
    return text[:1] not in (".", "-") and consists_of(text, ALNUM | {"_", ".", "-"}, 128)


def _is_digest(text: str) -> bool:
    algorithm, _, value = text.partition(":")
    return (
        consists_of(algorithm, ALNUM | {".", "+", "_", "-"})
        and consists_of(value, HEX)
        and len(value) >= 32
    )
