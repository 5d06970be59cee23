"""The kubelet's ``matchImages``: which images a pattern matches, and the patterns for OCIR.

The rules are those of k8s.io/kubernetes/pkg/credentialprovider/keyring.go. A pattern is
read as a URL without its scheme. Host and port of the image must match it label by label,
one ``*`` staying within one dot-separated label; the path is a plain string prefix.
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
# Every realm that OCI's SDK knows. ``oraclecloud*.com`` stands for oraclecloud.com and for the
# numbered domains of the newer realms; which hosts get a token is for the provider to judge.
_ALL_REALMS: Final = (
    "oraclecloud*.com",
    "oraclegovcloud.com",
    "oraclegovcloud.uk",
    "oraclecloud.eu",
)

_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")
# In a host, Go lets "%" stand only for bytes beyond ASCII and for "%" itself.
_HOST_ESCAPE: Final = re.compile("%(?!25|[89A-Fa-f][0-9A-Fa-f])")
_NOT_IN_HOST: Final = re.compile(r"""[^A-Za-z0-9._~!$&'()*+,;=:<>"%\u0080-\U0010ffff-]""")
_USERINFO: Final = re.compile(r"[A-Za-z0-9._:~!$&'()*+,;=%@-]*")
_HOST_LABEL: Final = re.compile("[A-Za-z0-9*-]+")
_IMAGE_PATH: Final = re.compile("[a-z0-9._/-]*")
_OCIR_HOST: Final = re.compile(r"(?:[a-z0-9-]+(\.ocir\.io)|(ocir\.)[a-z0-9-]+(\.oci\..+))")


def match_images(domains: Sequence[str] = (), hosts: Sequence[str] = ()) -> tuple[str, ...]:
    """The patterns that cover all of OCIR's host forms.

    ``domains`` are realm domains such as "oraclegovcloud.com"; none means every realm that is
    known. ``hosts`` are further hosts or patterns of the user's, for regions of their own.
    The short form ``<region>.ocir.io`` exists in the commercial realm alone; the long form
    ``ocir.<region>.oci.<realm domain>`` in every realm.
    """
    short = ("*.ocir.io",) if not domains or COMMERCIAL_DOMAIN in domains else ()
    long = (f"ocir.*.oci.{domain}" for domain in domains or _ALL_REALMS)
    return tuple(dict.fromkeys((*short, *long, *hosts)))


def matches(pattern: str, image: str) -> bool:
    """Whether the kubelet would ask a provider with this pattern about ``image``.

    As the kubelet does, this cuts off the image's tag and digest first and reads a name
    without a registry as Docker Hub's. A pattern that cannot be read matches nothing.
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
    """``image`` as the kubelet hands it to providers: without tag and digest."""
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
    """A pattern that matches ``image``: for OCIR every region of its realm, else its one host."""
    host = repository(image).partition("/")[0]
    ocir = _OCIR_HOST.fullmatch(host)
    if ocir is None:
        return host
    return f"*{ocir[1]}" if ocir[1] else f"{ocir[2]}*{ocir[3]}"


def patterns_that_match(config: CredentialProviderConfig, image: str) -> list[tuple[str, str]]:
    """(provider name, pattern) for each pattern of the config that matches ``image``."""
    return [
        (provider.name, pattern)
        for provider in config.providers
        for pattern in provider.match_images
        if matches(pattern, image)
    ]


def providers_for(
    config: CredentialProviderConfig, image: str, *, kubelet_version: str | None = None
) -> list[CredentialProvider]:
    """The providers that the kubelet asks about ``image``, in its order.

    It asks all whose patterns match, and tries the credentials of the first before those of the
    next. The order is that of the config since 1.33 and that of the names before
    (kubernetes/kubernetes#129669).
    """
    asked = [p for p in config.providers if any(matches(each, image) for each in p.match_images)]
    if parse_version(kubelet_version) < (1, 33):
        asked.sort(key=lambda provider: provider.name)
    return asked


def may_match_ocir(pattern: str, listed: Sequence[HostPattern] = ()) -> bool:
    """Whether some registry of OCIR's, or one that OCIR_HOSTS lists, matches the pattern."""
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
    """Why the kubelet refuses to start with this pattern, in its words; None if it accepts it."""
    try:
        _parse(pattern)
    except ValueError as error:
        return f'parse "https://{pattern.partition("#")[0]}": {error}'
    return None


def pattern_trap(pattern: str) -> tuple[str, str] | None:
    """What a pattern that the kubelet accepts does other than its writer meant, and the remedy.

    None if nothing is known against it.
    """
    if "://" in pattern:
        return "a pattern with a scheme never matches", "take away everything up to ://"
    if any(mark in pattern for mark in "?#@"):
        return (
            "what stands after ? or #, before @ and in a digest is not compared with the image",
            "write host, port and path alone",
        )
    url = _parse(pattern)
    host = ".".join(url.labels)
    if "*" in url.path:
        return (
            "* is no wildcard in a path, so this pattern never matches",
            "cut the path before the *: it is a prefix already",
        )
    if not _IMAGE_PATH.fullmatch(url.path):
        return (
            "the kubelet compares with the image's name without tag and digest, "
            "which is in lower case: this pattern never matches",
            "write the path as in the image's name, without the tag",
        )
    if "[" in host or (":" not in host and not all(map(_HOST_LABEL.fullmatch, url.labels))):
        return "no image has such a host, so this pattern never matches", "correct the host"
    if len(url.labels) == 1 and not url.port and host != "localhost" and ":" not in host:
        return (
            "a host without a dot or a port is no registry's, and * stays within one label",
            'write one label or * for each part of the host, as in "*.ocir.io"',
        )
    short, long = re.search(r"(^|[.*])ocir\.io$", host), re.search("oracle(gov)?cloud", host)
    labels = 3 if short else 5 if long else None
    if labels not in (None, len(url.labels)):
        return (
            f"OCIR's host names of this domain have {labels} dot-separated labels, this pattern "
            f"has {len(url.labels)}: it matches none of them",
            'write "*.ocir.io" or "ocir.*.oci.<realm domain>"',
        )
    return None


class _Url(NamedTuple):
    labels: tuple[str, ...]
    port: str
    path: str


def _parse(text: str) -> _Url:
    """Read a URL without its scheme by the rules of Go's net/url (Go 1.26, the strictest).

    Raises ValueError with Go's message.
    """
    text, _, fragment = text.partition("#")
    if re.search("[\x00-\x1f\x7f]", text):
        raise ValueError("net/url: invalid control character in URL")
    authority, slash, path = text.partition("?")[0].partition("/")
    userinfo, at, host = authority.rpartition("@")
    if at and not _USERINFO.fullmatch(userinfo):
        raise ValueError("net/url: invalid userinfo")
    _check_escapes(_ESCAPE, userinfo)
    labels, port = _split_host(host)
    _check_escapes(_ESCAPE, path)
    _check_escapes(_ESCAPE, fragment)
    return _Url(labels, port, unquote(slash + path, errors="surrogateescape"))


def _split_host(host: str) -> tuple[tuple[str, ...], str]:
    """Labels and port; an IPv6 address is one label, in brackets unless a port follows it."""
    if host.startswith("["):
        address, bracket, port = host[1:].rpartition("]")
        if not bracket:
            raise ValueError("missing ']' in host")
        _check_port(port)
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            raise ValueError("invalid IP-literal") from None
        return (address if port else host,), port[1:]
    if "[" in host:
        raise ValueError("invalid IP-literal")
    name, colon, digits = host.partition(":")
    _check_port(colon + digits)
    _check_escapes(_HOST_ESCAPE, name)
    if stray := _NOT_IN_HOST.search(name):
        raise ValueError(f'invalid character "{stray[0]}" in host name')
    return tuple(unquote(name, errors="surrogateescape").split(".")), digits


def _check_port(port: str) -> None:
    if port and not re.fullmatch(":[0-9]*", port):
        raise ValueError(f'invalid port "{port}" after host')


def _check_escapes(bad: re.Pattern[str], text: str) -> None:
    if escape := bad.search(text):
        raise ValueError(f'invalid URL escape "{text[escape.start() : escape.start() + 3]}"')


def _label_matches(glob: str, label: str) -> bool:
    """Go's filepath.Match; of its special characters a host holds ``*``, and [] around IPv6."""
    if glob.startswith("["):  # read as a class of characters, so it does not match itself
        return False
    return re.fullmatch(".*".join(map(re.escape, glob.split("*"))), label, re.DOTALL) is not None
