"""The host names of OCIR in each realm, checked before anything is signed.

OCIR has these names (https://docs.oracle.com/en-us/iaas/Content/Registry/Concepts/registryprerequisites.htm):

* realm OC1 only: ``<region key>.ocir.io`` and ``<region identifier>.ocir.io``;
* every realm: ``ocir.<region identifier>.oci.<realm domain>``.

A signature proves the node's identity and must never reach a host that is not Oracle's. Therefore the rules
compare whole host names, label by label.
"""

from __future__ import annotations

from provider.light_typing import TYPE_CHECKING
from provider.net.hostname import HTTPS_PORT, HostPattern, is_domain_name, split_host

if TYPE_CHECKING:
    from provider.auth.region import RegionInfo

# A copy of oci.regions_definitions in the SDK; a test compares the two. Importing the SDK takes far longer
# than a whole call that needs no network.
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
# The regions of each realm, by region key. Also a copy of oci.regions_definitions.
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
    "oc2": {"lfi": "us-langley-1", "luf": "us-luke-1"},
    "oc3": {"ric": "us-gov-ashburn-1", "pia": "us-gov-chicago-1", "tus": "us-gov-phoenix-1"},
    "oc4": {"brs": "uk-gov-cardiff-1", "ltn": "uk-gov-london-1"},
    "oc8": {"nja": "ap-chiyoda-1", "ukb": "ap-ibaraki-1"},
    "oc9": {"mct": "me-dcc-muscat-1", "ibr": "me-ibri-1"},
    "oc10": {"wga": "ap-dcc-canberra-1"},
    "oc14": {
        "ork": "eu-dcc-dublin-1",
        "snn": "eu-dcc-dublin-2",
        "bgy": "eu-dcc-milan-1",
        "mxp": "eu-dcc-milan-2",
        "dus": "eu-dcc-rating-1",
        "dtm": "eu-dcc-rating-2",
    },
    "oc15": {"dac": "ap-dcc-gazipur-1"},
    "oc19": {"str": "eu-frankfurt-2", "vll": "eu-madrid-2"},
    "oc20": {"beg": "eu-jovanovac-1"},
    "oc21": {"vve": "me-alrayyan-1", "doh": "me-dcc-doha-1"},
    "oc23": {"ebb": "us-somerset-1", "ebl": "us-thames-1"},
    "oc24": {"avf": "eu-crissier-1", "avz": "eu-dcc-zurich-1"},
    "oc26": {"ahu": "me-abudhabi-3", "rba": "me-alain-1"},
    "oc29": {"rkt": "me-abudhabi-2", "shj": "me-abudhabi-4"},
    "oc35": {"bno": "ap-chuncheon-2", "dtz": "ap-seoul-2", "dln": "ap-suwon-1"},
    "oc42": {"yxj": "us-ashburn-2", "pgc": "us-newark-1"},
    "oc51": {"jsk": "eu-budapest-1"},
    "oc52": {"hnw": "sa-riodejaneiro-1"},
}


def is_ocir(image_host: str, listed: tuple[HostPattern, ...]) -> bool:
    """Report whether ``image_host`` is a public name of OCIR or matches a pattern in ``listed``.

    Only such a host may receive signatures, or one in the realm domain that IMDS reports (see
    ``claimed_realm_domain``).
    """
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
    """Report whether ``image_host`` is the registry of a region in ``REGIONS``, or matches a pattern in
    ``listed`` that has no ``*``.

    Any other name that ``is_ocir`` accepts may be made up.
    """
    split = split_host(image_host)
    if split is None:
        return False
    host, port = split
    return any(
        pattern.matches(host, port) for pattern in listed if "*" not in pattern.labels
    ) or any(
        host in _registries(region, REALM_DOMAINS[realm], key)
        for realm, regions in REGIONS.items()
        for key, region in regions.items()
    )


def is_registry_of(region: RegionInfo, host: str) -> bool:
    """Report whether ``host``, in lower case, is a name of the registry of ``region``."""
    return host in _registries(*region)


def _registries(region: str, realm_domain: str, key: str) -> tuple[str, ...]:
    name = f"ocir.{region}.oci.{realm_domain}"
    if realm_domain != REALM_DOMAINS["oc1"]:
        return (name,)
    return name, f"{region}.ocir.io", f"{key}.ocir.io"


def claimed_realm_domain(image_host: str) -> str | None:
    """Return the realm domain in ``ocir.<region identifier>.oci.<realm domain>``, or None.

    This is only a claim. It is true if the domain belongs to a known realm or if this instance's metadata
    service reports it: dedicated and Alloy regions have domains that no published list contains.
    """
    split = split_host(image_host)
    if split is None or split[1] not in (None, HTTPS_PORT):
        return None
    service, _, rest = split[0].partition(".")
    region, oci, domain = rest.partition(".oci.")
    if service != "ocir" or not oci or "." in region or not is_domain_name(domain):
        return None
    return domain
