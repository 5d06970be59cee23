"""The way to OCI's servers: names, DNS, routes, proxies, TLS, and the clock, told apart."""

import errno
import re
import shlex
import socket
from collections.abc import Mapping
from typing import Final

from provider.auth.region import RegionInfo
from provider.commands.check import step as steps
from provider.commands.check.step import Step
from provider.errors import (
    BadSettings,
    DeadlineExceeded,
    ProviderError,
    RegistryUnreachable,
    TlsUntrusted,
)
from provider.net.background import Background
from provider.net.client import Network
from provider.net.deadline import Deadline
from provider.net.http import CLOCK_TOLERANCE, Connection, Failure, Origin, Proxy
from provider.net.tls import bundle, proxy_for, tls_context
from provider.ocir.hosts import REALM_DOMAINS, claimed_realm_domain, is_ocir
from provider.settings import INSTANCE_PRINCIPAL, WORKLOAD_IDENTITY, Settings

REGISTRY_NAME: Final = "registry name"
REGISTRY_ROUTE: Final = "registry route"
FEDERATION_ROUTE: Final = "federation route"
CLOCK: Final = "clock"
NOT_OCIR: Final = "registry-not-ocir"
_LIKE_OCIR: Final = re.compile("ocir|oracle")
_SECONDS: Final = 8.0
_DNS_SECONDS: Final = 5.0
# Far from OCI's limit, and yet a sign that nobody keeps the clock.
_DRIFT_SECONDS: Final = 30.0
_SERVICE_GATEWAY: Final = (
    "A private subnet needs a Service Gateway for 'All <region> Services In Oracle Services Network'"
    " with a route rule to it (or a NAT gateway), and security rules that let TCP 443 out. To see it:"
)


def judge_name(host: str, settings: Settings, where: RegionInfo | None) -> Step:
    """Is this a registry of OCI's, and of the node's realm?"""
    tried = f"the rules for registry names, for {host}"
    on_a_node = settings.ocir_auth_method in (INSTANCE_PRINCIPAL, WORKLOAD_IDENTITY)
    claimed = claimed_realm_domain(host)
    own = on_a_node and where is not None and claimed == where.realm_domain
    if not own and not is_ocir(host, settings.ocir_hosts):
        return _not_ocir(host, tried)
    domain = claimed or (REALM_DOMAINS["oc1"] if host.lower().endswith(".ocir.io") else None)
    if on_a_node and where and domain in REALM_DOMAINS.values() and domain != where.realm_domain:
        return steps.failed(
            REGISTRY_NAME,
            "registry-of-another-realm",
            tried,
            f"{host} is of the realm {domain}, and this node of {where.realm_domain}: realms do not"
            " know each other's nodes",
            "Copy the image to a registry of the node's realm, and name it there:",
            f"  ocir.{where.region}.oci.{where.realm_domain}",
        )
    return steps.ok(REGISTRY_NAME, tried, f"{host} is OCI's")


def may_be_ocir(host: str, settings: Settings | None) -> bool:
    """False for a registry that is not OCIR's, by its name, and does not look like a misspelt one."""
    listed = settings.ocir_hosts if settings else ()
    return is_ocir(host, listed) or _LIKE_OCIR.search(host.lower()) is not None


def _not_ocir(host: str, tried: str) -> Step:
    dedicated = (
        "OCIR_HOSTS is for the registries of Oracle's dedicated regions alone: the node proves its"
        " identity to every host that it lists."
    )
    if may_be_ocir(host, None):
        return steps.failed(
            REGISTRY_NAME,
            NOT_OCIR,
            tried,
            f"{host} is not one of OCIR's names, so this program gives no credentials for it",
            "Correct the image's name. OCIR's names are <region>.ocir.io and"
            " ocir.<region>.oci.<realm domain>, without a port.",
            dedicated,
        )
    return steps.warning(
        REGISTRY_NAME,
        NOT_OCIR,
        tried,
        f"{host} is not an OCIR registry: this program gives no credentials for it, and that is right",
        "The container runtime pulls such an image without credentials, or with those of the pod's"
        " imagePullSecrets.",
        dedicated,
    )


def reach(name: str, origin: Origin, environ: Mapping[str, str]) -> Step:
    """DNS, route, proxy and TLS to a server, told apart."""
    tried = f"{origin.scheme}://{origin.netloc}"
    secure = origin.scheme == "https"
    try:
        proxy = proxy_for(origin.host, environ) if secure else None
        context = tls_context(environ) if secure else None
        trusted = bundle(environ) if secure else ""
    except BadSettings as error:
        return steps.broken(name, tried, error)
    host, port = (proxy.host, proxy.port) if proxy else (origin.host, origin.port)
    if proxy:
        tried += f" by the proxy {host}:{port} (HTTPS_PROXY)"
    try:
        look = Background(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        found = look.result(Deadline(_DNS_SECONDS), "asking DNS")
    except (OSError, DeadlineExceeded) as error:
        reason = getattr(error, "strerror", None) or f"no answer within {_DNS_SECONDS:g} s"
        return steps.failed(
            name,
            "dns",
            tried,
            f"{host} has no address in DNS: {reason}",
            *(("Correct HTTPS_PROXY in the kubelet's environment.",) if proxy else ()),
            "The VCN's resolver is 169.254.169.254. To see what answers here:",
            f"  getent hosts {shlex.quote(host)}; cat /etc/resolv.conf",
        )
    addresses = ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found))
    tried += f" at {addresses}" + (f", trusting {trusted}" if secure else "")
    # Apart, since who takes no connection and who breaks TLS off need other advice.
    plain = Connection(Origin("http", host, port))
    try:
        plain.open(Deadline(_SECONDS))
    except (Failure, DeadlineExceeded) as error:
        return _not_connected(name, tried, f"{error} ({addresses})", error, f"{host}:{port}", proxy)
    plain.close()
    connection = Connection(origin, (lambda: context) if context else None, proxy)
    try:
        connection.open(Deadline(_SECONDS))
    except TlsUntrusted as error:
        return steps.broken(
            name,
            tried,
            error,
            "Is the clock right (see there)? Does a proxy intercept TLS? Then its CA must be in"
            f" {trusted}, or in a file that SSL_CERT_FILE in the provider's env names. Who answers:",
            f"  openssl s_client -connect {origin.host}:{origin.port} -showcerts </dev/null",
        )
    except (Failure, DeadlineExceeded) as error:
        if proxy and error.__cause__ is None:
            return steps.failed(
                name,
                "proxy-refused",
                tried,
                str(error),
                "The proxy must allow CONNECT to this host; or let OCI be reached without it:",
                "  NO_PROXY=.oraclecloud.com,.ocir.io,169.254.169.254",
            )
        return _broken_off(name, tried, f"{error} ({addresses})", f"{origin.host}:{origin.port}")
    connection.close()
    return steps.ok(name, tried, origin.host + (f" by the proxy {host}:{port}" if proxy else ""))


def _not_connected(
    name: str, tried: str, came: str, error: Exception, address: str, proxy: Proxy | None
) -> Step:
    see = "  curl -sv -m 10 -o /dev/null " + shlex.quote(f"https://{address}/")
    if proxy:
        advice = "Correct HTTPS_PROXY in the kubelet's environment, or start the proxy. To see it:"
        return steps.failed(name, "proxy-unreachable", tried, came, advice, see)
    match getattr(error.__cause__, "errno", None):
        case errno.ECONNREFUSED:
            return steps.failed(
                name,
                "connection-refused",
                tried,
                came,
                "The way is open, but nobody listens there: a wrong address, or a firewall that"
                " refuses. To see it:",
                see,
            )
        case errno.ECONNRESET | errno.EINVAL | errno.ENOTCONN:
            # Taken, and broken off in the same moment.
            return _broken_off(name, tried, came, address)
    return steps.failed(name, "no-route", tried, came, _SERVICE_GATEWAY, see)


def _broken_off(name: str, tried: str, came: str, address: str) -> Step:
    return steps.failed(
        name,
        "tls-failed",
        tried,
        came,
        "Something on the way ends the connection before TLS is set up: a firewall that looks at"
        " host names, or a proxy. To see it:",
        f"  openssl s_client -connect {shlex.quote(address)} </dev/null",
    )


def look_at_clock(origin: Origin, environ: Mapping[str, str]) -> Step:
    """How far is this machine's clock from the registry's?"""
    tried = f"the Date of GET {origin.scheme}://{origin.netloc}/v2/"
    try:
        client = Network(Deadline(_SECONDS), environ).client(origin, RegistryUnreachable)
        ahead = client.request("GET", "/v2/", dict, attempts=1).clock_ahead
    except ProviderError as error:
        return steps.skipped(CLOCK, error.code, f"the registry tells no time: {error.message}")
    if ahead is None:
        return steps.skipped(CLOCK, "no-date", "the registry's answer has no date")
    # The date has whole seconds.
    if abs(ahead) <= _DRIFT_SECONDS:
        return steps.ok(CLOCK, tried, f"within {max(1.0, abs(ahead)):.0f} s of OCI's")
    came = f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} OCI's"
    advice = (
        "OCI refuses what is more than 5 minutes off. Set the clock, and let it be kept:",
        "  systemctl enable --now chronyd; chronyc makestep; chronyc sources",
        "with this line in chrony.conf:",
        "  server 169.254.169.254 iburst",
    )
    if abs(ahead) > CLOCK_TOLERANCE:
        return steps.failed(CLOCK, "clock-skew", tried, came, *advice)
    return steps.warning(CLOCK, "clock-drift", tried, came, *advice)
