"""Which host names are OCIR's: decided before anything is signed.

OCI's registry has these names (docs.oracle.com, "Preparing for Container Registry"):

* realm OC1 only: ``<region key>.ocir.io`` and ``<region id>.ocir.io``;
* every realm: ``ocir.<region id>.oci.<realm domain>``.

A signature is a proof of identity and must never reach a host that is not OCI's, so the rules name
whole hosts, label by label; nothing is searched for inside a name.
"""

import re
from typing import NamedTuple

# As in oci.regions_definitions of the SDK (a test holds the two equal). A copy, since importing
# anything of the SDK costs far more than all the rest of a call that needs no network.
REALM_DOMAINS = {
    "oc1": "oraclecloud.com",
    "oc2": "oraclegovcloud.com",
    "oc3": "oraclegovcloud.com",
    "oc4": "oraclegovcloud.uk",
    "oc8": "oraclecloud8.com",
    "oc9": "oraclecloud9.com",
    "oc10": "oraclecloud10.com",
    "oc14": "oraclecloud14.com",
    "oc15": "oraclecloud15.com",
    "oc19": "oraclecloud.eu",
    "oc20": "oraclecloud20.com",
    "oc21": "oraclecloud21.com",
    "oc23": "oraclecloud23.com",
    "oc24": "oraclecloud24.com",
    "oc26": "oraclecloud26.com",
    "oc29": "oraclecloud29.com",
    "oc35": "oraclecloud35.com",
    "oc42": "oraclecloud42.com",
    "oc51": "oraclecloud51.com",
    "oc52": "oraclecloud52.com",
}
# The regions of each realm by their keys, from the same place. A test compares them with the SDK.
REGIONS = {
    "oc1": {
        "lej": "af-casablanca-1",
        "jnb": "af-johannesburg-1",
        "hsg": "ap-batam-1",
        "yny": "ap-chuncheon-1",
        "onm": "ap-delhi-1",
        "hyd": "ap-hyderabad-1",
        "jbp": "ap-kulai-2",
        "mel": "ap-melbourne-1",
        "bom": "ap-mumbai-1",
        "kix": "ap-osaka-1",
        "icn": "ap-seoul-1",
        "sin": "ap-singapore-1",
        "xsp": "ap-singapore-2",
        "syd": "ap-sydney-1",
        "nrt": "ap-tokyo-1",
        "yul": "ca-montreal-1",
        "yyz": "ca-toronto-1",
        "ams": "eu-amsterdam-1",
        "fra": "eu-frankfurt-1",
        "mad": "eu-madrid-1",
        "orf": "eu-madrid-3",
        "mrs": "eu-marseille-1",
        "lin": "eu-milan-1",
        "cdg": "eu-paris-1",
        "arn": "eu-stockholm-1",
        "nrq": "eu-turin-1",
        "zrh": "eu-zurich-1",
        "mtz": "il-jerusalem-1",
        "auh": "me-abudhabi-1",
        "dxb": "me-dubai-1",
        "jed": "me-jeddah-1",
        "ruh": "me-riyadh-1",
        "mty": "mx-monterrey-1",
        "qro": "mx-queretaro-1",
        "bog": "sa-bogota-1",
        "scl": "sa-santiago-1",
        "gru": "sa-saopaulo-1",
        "vap": "sa-valparaiso-1",
        "vcp": "sa-vinhedo-1",
        "cwl": "uk-cardiff-1",
        "lhr": "uk-london-1",
        "iad": "us-ashburn-1",
        "ord": "us-chicago-1",
        "phx": "us-phoenix-1",
        "aga": "us-saltlake-2",
        "sjc": "us-sanjose-1",
    },
    "oc2": {
        "lfi": "us-langley-1",
        "luf": "us-luke-1",
    },
    "oc3": {
        "ric": "us-gov-ashburn-1",
        "pia": "us-gov-chicago-1",
        "tus": "us-gov-phoenix-1",
    },
    "oc4": {
        "brs": "uk-gov-cardiff-1",
        "ltn": "uk-gov-london-1",
    },
    "oc8": {
        "nja": "ap-chiyoda-1",
        "ukb": "ap-ibaraki-1",
    },
    "oc9": {
        "mct": "me-dcc-muscat-1",
        "ibr": "me-ibri-1",
    },
    "oc10": {
        "wga": "ap-dcc-canberra-1",
    },
    "oc14": {
        "ork": "eu-dcc-dublin-1",
        "snn": "eu-dcc-dublin-2",
        "bgy": "eu-dcc-milan-1",
        "mxp": "eu-dcc-milan-2",
        "dus": "eu-dcc-rating-1",
        "dtm": "eu-dcc-rating-2",
    },
    "oc15": {
        "dac": "ap-dcc-gazipur-1",
    },
    "oc19": {
        "str": "eu-frankfurt-2",
        "vll": "eu-madrid-2",
    },
    "oc20": {
        "beg": "eu-jovanovac-1",
    },
    "oc21": {
        "vve": "me-alrayyan-1",
        "doh": "me-dcc-doha-1",
    },
    "oc23": {
        "ebb": "us-somerset-1",
        "ebl": "us-thames-1",
    },
    "oc24": {
        "avf": "eu-crissier-1",
        "avz": "eu-dcc-zurich-1",
    },
    "oc26": {
        "ahu": "me-abudhabi-3",
        "rba": "me-alain-1",
    },
    "oc29": {
        "rkt": "me-abudhabi-2",
        "shj": "me-abudhabi-4",
    },
    "oc35": {
        "bno": "ap-chuncheon-2",
        "dtz": "ap-seoul-2",
        "dln": "ap-suwon-1",
    },
    "oc42": {
        "yxj": "us-ashburn-2",
        "pgc": "us-newark-1",
    },
    "oc51": {
        "jsk": "eu-budapest-1",
    },
    "oc52": {
        "hnw": "sa-riodejaneiro-1",
    },
}
LOOPBACK = ("localhost", "127.0.0.1")
HTTPS_PORT = 443
HTTP_PORT = 80

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.A)
_NUMBER = re.compile(r"[0-9]+", re.A)
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.A)


class RegionInfo(NamedTuple):
    """A region: ``region`` as eu-frankfurt-1, ``realm_domain`` as oraclecloud.com, ``key`` as fra."""

    region: str
    realm_domain: str
    key: str = ""

    def has_registry(self, host: str) -> bool:
        """True when ``host``, in lower case, is a name of this region's registry."""
        if host == f"ocir.{self.region}.oci.{self.realm_domain}":
            return True
        short_names = (f"{self.region}.ocir.io", f"{self.key}.ocir.io")
        return self.realm_domain == REALM_DOMAINS["oc1"] and host in short_names


class HostPattern(NamedTuple):
    """A registry host that the user lists: dot-separated labels, ``*`` standing for a whole one.

    ``port`` None means the protocol's own port.
    """

    labels: tuple[str, ...]
    port: int | None

    def matches(self, host: str, port: int | None) -> bool:
        """True when ``host`` has the same labels, and the same port."""
        labels = host.split(".")
        return (
            port == self.port
            and len(labels) == len(self.labels)
            and all(ours in ("*", label) for ours, label in zip(self.labels, labels, strict=True))
        )


def is_domain_name(text: str) -> bool:
    """True for a lower-case DNS name of two or more labels that is not an IP address."""
    labels = text.split(".")
    return (
        len(text) <= 253
        and len(labels) >= 2
        and all(_LABEL.fullmatch(label) for label in labels)
        and not _NUMBER.fullmatch(labels[-1])
    )


def parse_host_pattern(text: str) -> HostPattern | None:
    """``ocir.my.cloud``, ``ocir.*.oci.my.cloud``, ``registry.my.cloud:8443``; None when it is neither.

    The last two labels may not be ``*``: a pattern that covers a whole top-level domain would hand
    signatures to anybody. Of addresses only loopback is allowed, for trying things out.
    """
    if not text.isascii():
        return None  # lower() makes an ASCII letter of the KELVIN SIGN
    host, colon, port_text = text.lower().partition(":")
    if colon and not _is_port(port_text):
        return None
    port = int(port_text) if colon else None
    labels = tuple(host.split("."))
    named = ".".join("x" if label == "*" else label for label in labels)
    if host not in LOOPBACK and (not is_domain_name(named) or "*" in labels[-2:]):
        return None
    return HostPattern(labels, port)


def split_host(image_host: str) -> tuple[str, int | None] | None:
    """An image's registry as (lower-case name, port or None); None when it has no such form."""
    host, colon, port_text = image_host.lower().partition(":")
    if not image_host.isascii() or (colon and not _is_port(port_text)):
        return None
    if host not in LOOPBACK and not is_domain_name(host):
        return None
    return host, int(port_text) if colon else None


def is_ocir(image_host: str, listed: tuple[HostPattern, ...]) -> bool:
    """True when signatures may go to this registry: by OCI's public names, or by the user's list."""
    split = split_host(image_host)
    if split is None:
        return False
    host, port = split
    if any(pattern.matches(host, port) for pattern in listed):
        return True
    if port not in (None, HTTPS_PORT):
        return False
    labels = host.split(".")
    if len(labels) == 3 and labels[1:] == ["ocir", "io"]:
        return True
    return claimed_realm_domain(image_host) in REALM_DOMAINS.values()


def is_known_registry(image_host: str, listed: tuple[HostPattern, ...]) -> bool:
    """True when ``image_host`` is a registry of a region in ``REGIONS``, or listed without a ``*``.

    Any other name that ``is_ocir`` accepts may be invented.
    """
    split = split_host(image_host)
    if split is None:
        return False
    host, port = split
    return any(
        pattern.matches(host, port) for pattern in listed if "*" not in pattern.labels
    ) or any(
        RegionInfo(region, REALM_DOMAINS[realm], key).has_registry(host)
        for realm, regions in REGIONS.items()
        for key, region in regions.items()
    )


def claimed_realm_domain(image_host: str) -> str | None:
    """The realm domain that ``ocir.<region id>.oci.<realm domain>`` claims, else None.

    A claim only: it holds when the domain is a known realm's, or what this instance's own metadata
    service names (dedicated and Alloy regions have domains that no list knows).
    """
    split = split_host(image_host)
    if split is None or split[1] not in (None, HTTPS_PORT):
        return None
    service, _, rest = split[0].partition(".")
    region, oci, domain = rest.partition(".oci.")
    if service != "ocir" or not oci or "." in region or not is_domain_name(domain):
        return None
    return domain


def _is_port(text: str) -> bool:
    return bool(_PORT.fullmatch(text)) and int(text) <= 65535
