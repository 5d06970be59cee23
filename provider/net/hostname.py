"""Host names: DNS names, image registries, and the patterns in OCIR_HOSTS."""

from __future__ import annotations

from provider.ascii import DIGITS, HEX, LOWER_ALNUM, consists_of
from provider.light_typing import NamedTuple

LOOPBACK = ("localhost", "127.0.0.1")
HTTPS_PORT = 443
HTTP_PORT = 80


class HostPattern(NamedTuple):
    """A pattern in OCIR_HOSTS: the labels of a host name, where ``*`` matches one whole label.

    ``port`` None means the default port of the protocol.
    """

    labels: tuple[str, ...]
    port: int | None

    def matches(self, host: str, port: int | None) -> bool:
        """Report whether ``host`` and ``port`` match this pattern."""
        labels = host.split(".")
        return (
            port == self.port
            and len(labels) == len(self.labels)
            and all(own in ("*", label) for own, label in zip(self.labels, labels, strict=True))
        )


def is_domain_name(text: str) -> bool:
    """Report whether ``text`` is a lower-case DNS name with two or more labels, and not an IP address."""
    labels = text.split(".")
    return (
        len(text) <= 253
        and len(labels) >= 2
        and all(map(_is_label, labels))
        and not consists_of(labels[-1], DIGITS)
    )


def parse_host(text: str) -> str | None:
    """Return a DNS name, IPv4 address or IPv6 address in lower case; None for any other text."""
    host = text.lower()
    parts = host.split(".")
    is_ipv4 = len(parts) == 4 and all(consists_of(part, DIGITS, 3) for part in parts)
    is_ipv6 = ":" in host[:-1] and consists_of(host, HEX | {":"})
    return host if is_ipv4 or is_ipv6 or is_domain_name(host) else None


def parse_host_pattern(text: str) -> HostPattern | None:
    """Parse ``ocir.my.cloud``, ``ocir.*.oci.my.cloud`` or ``registry.my.cloud:8443``; None if invalid.

    The last two labels must not be ``*``: a pattern that matches a whole top-level domain would send
    signatures to any host. The only addresses allowed are loopback addresses, for tests.
    """
    if not text.isascii():
        return None  # lower() turns the KELVIN SIGN into an ASCII letter
    host, colon, port_text = text.lower().partition(":")
    if colon and not _is_port(port_text):
        return None
    port = int(port_text) if colon else None
    labels = tuple(host.split("."))
    example = ".".join("x" if label == "*" else label for label in labels)
    if host not in LOOPBACK and (not is_domain_name(example) or "*" in labels[-2:]):
        return None
    return HostPattern(labels, port)


def split_host(image_host: str) -> tuple[str, int | None] | None:
    """Split the registry of an image into (lower-case name, port or None); None if it is malformed."""
    host, colon, port_text = image_host.lower().partition(":")
    if not image_host.isascii() or (colon and not _is_port(port_text)):
        return None
    if host not in LOOPBACK and not is_domain_name(host):
        return None
    return host, int(port_text) if colon else None


def _is_port(text: str) -> bool:
    return consists_of(text, DIGITS, 5) and text[0] != "0" and int(text) <= 65535


def _is_label(text: str) -> bool:
    return consists_of(text, LOWER_ALNUM | {"-"}, 63) and "-" not in (text[0], text[-1])
