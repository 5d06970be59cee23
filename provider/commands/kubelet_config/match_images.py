"""Match images against ``matchImages`` patterns as the kubelet does, and write patterns for OCIR.

The rules are those of k8s.io/kubernetes/pkg/credentialprovider/keyring.go. The kubelet parses a
pattern as a URL without a scheme. The host must match label by label, and a ``*`` matches within one
label. The port must be equal. The path is a string prefix.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Final, NamedTuple
from urllib.parse import unquote

from provider.commands.kubelet_config.model import (
    CredentialProvider,
    CredentialProviderConfig,
    parse_version,
)
from provider.net.hostname import HostPattern

COMMERCIAL_DOMAIN: Final = "oraclecloud.com"
# All realms of OCI's SDK. ``oraclecloud*.com`` covers oraclecloud.com and the numbered domains of newer
# realms. The provider's host rule decides which of these hosts get a token.
_ALL_REALMS: Final = (
    "oraclecloud*.com",
    "oraclegovcloud.com",
    "oraclegovcloud.uk",
    "oraclecloud.eu",
)

_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")
# In a host, Go accepts only escapes of non-ASCII bytes and of "%".
_HOST_ESCAPE: Final = re.compile("%(?!25|[89A-Fa-f][0-9A-Fa-f])")
_NOT_IN_HOST: Final = re.compile(r"""[^A-Za-z0-9._~!$&'()*+,;=:<>"%\u0080-\U0010ffff-]""")
_USERINFO: Final = re.compile(r"[A-Za-z0-9._:~!$&'()*+,;=%@-]*")
_HOST_LABEL: Final = re.compile("[A-Za-z0-9*-]+")
_IMAGE_PATH: Final = re.compile("[a-z0-9._/-]*")
_OCIR_HOST: Final = re.compile(r"(?:[a-z0-9-]+(\.ocir\.io)|(ocir\.)[a-z0-9-]+(\.oci\..+))")


def match_images(domains: Sequence[str] = (), hosts: Sequence[str] = ()) -> tuple[str, ...]:
    """The patterns that cover OCIR's host names.

    ``domains`` are realm domains such as "oraclegovcloud.com"; by default all known realms. ``hosts``
    are additional hosts or patterns, for dedicated regions. Only the commercial realm has the short
    form ``<region>.ocir.io``. All realms have ``ocir.<region>.oci.<realm domain>``.
    """
    short = ("*.ocir.io",) if not domains or COMMERCIAL_DOMAIN in domains else ()
    long = (f"ocir.*.oci.{domain}" for domain in domains or _ALL_REALMS)
    return tuple(dict.fromkeys((*short, *long, *hosts)))


def matches(pattern: str, image: str) -> bool:
    """True if the kubelet calls a provider with this pattern for ``image``.

    Like the kubelet, this ignores the image's tag and digest, and looks for names without a registry
    on Docker Hub. A malformed pattern matches nothing.
    """
    try:
        glob, target = _parse(pattern), _parse(repository(image))
    except ValueError:
        return False
    return (
        glob.port == target.port
        and len(glob.labels) == len(target.labels)
        and target.path.startswith(glob.path)
        and all(map(_label_matches, glob.labels, target.labels))
    )


def repository(image: str) -> str:
    """``image`` as the kubelet sends it to providers: without tag and digest."""
    name = image.partition("@")[0]
    head, slash, last = name.rpartition("/")
    name = head + slash + last.partition(":")[0]
    registry, slash, rest = name.partition("/")
    if not slash:
        return f"docker.io/library/{name}"
    if registry == "docker.io" and "/" not in rest:
        return f"docker.io/library/{rest}"
    if "." in registry or ":" in registry or registry == "localhost":
        return name
    return f"docker.io/{name}"


def suggest_pattern(image: str) -> str:
    """A pattern that matches ``image``: all regions of an OCIR realm, or the host of another registry."""
    host = repository(image).partition("/")[0]
    ocir = _OCIR_HOST.fullmatch(host)
    if ocir is None:
        return host
    return f"*{ocir[1]}" if ocir[1] else f"{ocir[2]}*{ocir[3]}"


def patterns_that_match(config: CredentialProviderConfig, image: str) -> list[tuple[str, str]]:
    """The name of the provider and the pattern, for each pattern that matches ``image``."""
    return [
        (provider.name, pattern)
        for provider in config.providers
        for pattern in provider.match_images
        if matches(pattern, image)
    ]


def providers_for(
    config: CredentialProviderConfig, image: str, *, kubelet_version: str | None = None
) -> list[CredentialProvider]:
    """The providers that the kubelet calls for ``image``, in its order.

    It calls all providers that match, and tries their credentials in this order: the config's order
    since 1.33, the order of the names before (kubernetes/kubernetes#129669).
    """
    found = [p for p in config.providers if any(matches(each, image) for each in p.match_images)]
    if parse_version(kubelet_version) < (1, 33):
        found.sort(key=lambda provider: provider.name)
    return found


def may_match_ocir(pattern: str, listed: Sequence[HostPattern] = ()) -> bool:
    """True if the pattern matches a registry of OCIR, or one in OCIR_HOSTS."""
    try:
        glob = _parse(pattern)
    except ValueError:
        return False
    if pattern_trap(pattern):
        return False
    forms = [("*", "ocir", "io"), ("ocir", "*", "oci", *["*"] * max(2, len(glob.labels) - 3))]
    return any(
        len(form) == len(glob.labels)
        and all(
            part == "*" or _label_matches(label, part)
            for label, part in zip(glob.labels, form, strict=True)
        )
        for form in [*forms, *(each.labels for each in listed)]
    )


def pattern_error(pattern: str) -> str | None:
    """Why the kubelet does not start with this pattern; None if it accepts the pattern."""
    try:
        _parse(pattern)
    except ValueError as error:
        return str(error)
    return None


def pattern_trap(pattern: str) -> tuple[str, str] | None:
    """A likely mistake in a pattern that the kubelet accepts, and a hint. None without a mistake."""
    if "://" in pattern:
        return "a pattern with a scheme never matches", "remove the scheme and ://"
    if any(mark in pattern for mark in "?#@"):
        return (
            "the kubelet ignores the text after ? or #, before @, and in a digest",
            "write only host, port and path",
        )
    url = _parse(pattern)
    host = ".".join(url.labels)
    if "*" in url.path:
        return (
            "* is not a wildcard in a path, so this pattern never matches",
            "end the path before the *: the path is a prefix",
        )
    if not _IMAGE_PATH.fullmatch(url.path):
        return (
            "this pattern never matches: the kubelet compares it with the image's name, which is in lower"
            " case and has no tag or digest here",
            "write the path as in the image's name, without the tag",
        )
    if "[" in host or (":" not in host and not all(map(_HOST_LABEL.fullmatch, url.labels))):
        return "no image has such a host, so this pattern never matches", "correct the host"
    if len(url.labels) == 1 and not url.port and host != "localhost" and ":" not in host:
        return (
            "a registry's host has a dot or a port, and * matches within one label",
            'write a label or * for each part of the host, for example "*.ocir.io"',
        )
    short, long = re.search(r"(^|[.*])ocir\.io$", host), re.search("oracle(gov)?cloud", host)
    labels = 3 if short else 5 if long else None
    if labels not in (None, len(url.labels)):
        return (
            f"this pattern has {len(url.labels)} labels and matches no OCIR host: they have {labels} in"
            " this domain",
            'write "*.ocir.io" or "ocir.*.oci.<realm domain>"',
        )
    return None


class _Url(NamedTuple):
    labels: tuple[str, ...]
    port: str
    path: str


def _parse(text: str) -> _Url:
    """Parse a URL without a scheme by the rules of net/url in Go 1.26, the strictest. Raises ValueError."""
    text, _, fragment = text.partition("#")
    if re.search("[\x00-\x1f\x7f]", text):
        raise ValueError("control character")
    authority, slash, path = text.partition("?")[0].partition("/")
    userinfo, at, host = authority.rpartition("@")
    if at and not _USERINFO.fullmatch(userinfo):
        raise ValueError("invalid character before @")
    _check_escapes(_ESCAPE, userinfo)
    labels, port = _split_host(host)
    _check_escapes(_ESCAPE, path)
    _check_escapes(_ESCAPE, fragment)
    return _Url(labels, port, unquote(slash + path, errors="surrogateescape"))


def _split_host(host: str) -> tuple[tuple[str, ...], str]:
    """Labels and port. An IPv6 address is one label, in brackets unless a port follows."""
    if host.startswith("["):
        address, bracket, port = host[1:].rpartition("]")
        if not bracket:
            raise ValueError("missing ]")
        _check_port(port)
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            raise ValueError("invalid IPv6 address") from None
        return (address if port else host,), port[1:]
    if "[" in host:
        raise ValueError("invalid IPv6 address")
    name, colon, digits = host.partition(":")
    _check_port(colon + digits)
    _check_escapes(_HOST_ESCAPE, name)
    if stray := _NOT_IN_HOST.search(name):
        raise ValueError(f'invalid character "{stray[0]}" in the host')
    return tuple(unquote(name, errors="surrogateescape").split(".")), digits


def _check_port(port: str) -> None:
    if port and not re.fullmatch(":[0-9]*", port):
        raise ValueError(f'invalid port "{port}"')


def _check_escapes(bad: re.Pattern[str], text: str) -> None:
    if escape := bad.search(text):
        raise ValueError(f'invalid escape "{text[escape.start() : escape.start() + 3]}"')


def _label_matches(glob: str, label: str) -> bool:
    """Go's filepath.Match. A host can contain two of its special characters: ``*``, and [] for IPv6."""
    if glob.startswith("["):  # a character class, which does not match itself
        return False
    return re.fullmatch(".*".join(map(re.escape, glob.split("*"))), label, re.DOTALL) is not None
