"""The host rule, written from Oracle's documents without code of the program.

It uses no regular expressions and nothing of `provider.ocir.hosts`; it compares labels and characters.
"""

import ipaddress

_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_DIGITS = "0123456789"
# docs.oracle.com, "Regions and Availability Domains": the domains of the public realms.
_DOMAINS = {"oraclecloud.com", "oraclegovcloud.com", "oraclegovcloud.uk", "oraclecloud.eu"} | {
    f"oraclecloud{n}.com" for n in (8, 9, 10, 14, 15, 20, 21, 23, 24, 26, 29, 35, 42, 51, 52)
}

# README, "Settings": OCIR_AUTH_METHOD. The last one selects one of two methods for each call.
AUTH_METHODS = (
    "INSTANCE_PRINCIPAL",
    "USER_PRINCIPAL",
    "RESOURCE_PRINCIPAL",
    "WORKLOAD_IDENTITY",
    "WORKLOAD_IDENTITY_OR_INSTANCE_PRINCIPAL",
)


def registry_of(image: str) -> str:
    """Return the part of an image name that the kubelet uses as the registry."""
    first, slash, _ = image.partition("/")
    is_host = "." in first or ":" in first or first == "localhost" or first != first.lower()
    return first if slash and is_host else "docker.io"


def may_sign(host: str, realm_domain: str = "") -> bool:
    """Report whether `host`, with or without a port, is OCIR's. `realm_domain` comes from IMDS."""
    if not host.isascii():
        return False
    name, colon, port = host.partition(":")
    if colon and port != "443":
        return False
    labels = _lower(name).split(".")
    if len(name) > 253 or not all(_is_label(label) for label in labels):
        return False
    if labels[-2:] == ["ocir", "io"] and len(labels) == 3:
        return True
    if len(labels) < 5 or labels[0] != "ocir" or labels[2] != "oci":
        return False
    domain = ".".join(labels[3:])
    return domain in _DOMAINS or domain == realm_domain


def pattern_matches(pattern: str, host: str) -> bool:
    """Report whether `pattern`, a valid one of OCIR_HOSTS, matches `host`."""
    name, colon, port = _lower(pattern).partition(":")
    host_name, host_colon, host_port = _lower(host).partition(":")
    if colon != host_colon or (colon and int(port) != int(host_port)):
        return False
    wanted, labels = name.split("."), host_name.split(".")
    if len(wanted) != len(labels):
        return False
    return all(want in ("*", have) for want, have in zip(wanted, labels, strict=True))


def is_address(host: str) -> bool:
    """Report whether a host is an IP address in any form that a resolver accepts."""
    name = host.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        # inet_aton(3) also accepts 1, 2 or 3 numbers.
        return all(part != "" and all(c in _DIGITS for c in part) for part in name.split("."))
    return True


def _lower(text: str) -> str:
    upper = _LETTERS.upper()
    return "".join(_LETTERS[upper.index(c)] if c in upper else c for c in text)


def _is_label(label: str) -> bool:
    inside = all(c in _LETTERS or c in _DIGITS or c == "-" for c in label)
    return inside and 1 <= len(label) <= 63 and label[0] != "-" and label[-1] != "-"
