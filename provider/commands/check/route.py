"""Check the network path to OCI's servers: name, DNS, route, proxy, TLS and the clock."""

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
from provider.net.client import Client, Network
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
_CLIENT_SECONDS: Final = 15.0
# Far below OCI's limit, but a sign that nothing synchronizes the clock.
_DRIFT_SECONDS: Final = 30.0
_SERVICE_GATEWAY: Final = (
    "A private subnet needs a Service Gateway for 'All <region> Services In Oracle Services Network'"
    " with a route rule to it (or a NAT gateway), and security rules that allow outgoing TCP 443. To"
    " test the connection:"
)


def judge_name(host: str, settings: Settings, where: RegionInfo | None) -> Step:
    """Judge whether the host is a registry of OCIR, in the node's realm."""
    action = f"the rules for registry names, for {host}"
    on_a_node = settings.ocir_auth_method in (INSTANCE_PRINCIPAL, WORKLOAD_IDENTITY)
    claimed = claimed_realm_domain(host)
    own = on_a_node and where is not None and claimed == where.realm_domain
    if not own and not is_ocir(host, settings.ocir_hosts):
        return _not_ocir(host, action)
    domain = claimed or (REALM_DOMAINS["oc1"] if host.lower().endswith(".ocir.io") else None)
    if on_a_node and where and domain in REALM_DOMAINS.values() and domain != where.realm_domain:
        return steps.failed(
            REGISTRY_NAME,
            "registry-of-another-realm",
            action,
            f"{host} is in the realm {domain}, and this node is in {where.realm_domain}: a registry"
            " accepts only nodes of its own realm",
            "Copy the image to a registry in the node's realm, and use its name there:",
            f"  {ocir_host(where)}",
        )
    return steps.ok(REGISTRY_NAME, action, f"{host} is a registry of OCIR")


def ocir_host(where: RegionInfo) -> str:
    """The registry of a region."""
    return f"ocir.{where.region}.oci.{where.realm_domain}"


def may_be_ocir(host: str, settings: Settings | None) -> bool:
    """False if the host is not a registry of OCIR, and not similar to one."""
    listed = settings.ocir_hosts if settings else ()
    return is_ocir(host, listed) or _LIKE_OCIR.search(host.lower()) is not None


def _not_ocir(host: str, action: str) -> Step:
    dedicated = (
        "Use OCIR_HOSTS only for the registries of Oracle's dedicated regions: the node proves its"
        " identity to every host in it."
    )
    if may_be_ocir(host, None):
        return steps.failed(
            REGISTRY_NAME,
            NOT_OCIR,
            action,
            f"{host} is not one of OCIR's names, so this program returns no credentials for it",
            "Correct the image's name. OCIR's names are <region>.ocir.io and"
            " ocir.<region>.oci.<realm domain>, without a port.",
            dedicated,
        )
    return steps.warning(
        REGISTRY_NAME,
        NOT_OCIR,
        action,
        f"{host} is not an OCIR registry: this program returns no credentials for it, as intended",
        "The container runtime pulls such an image without credentials, or with those of the pod's"
        " imagePullSecrets.",
        dedicated,
    )


def check_route(name: str, origin: Origin, environ: Mapping[str, str]) -> Step:
    """Check DNS, route, proxy and TLS to a server, one after the other."""
    action = f"{origin.scheme}://{origin.netloc}"
    secure = origin.scheme == "https"
    try:
        proxy = proxy_for(origin.host, environ) if secure else None
        context = tls_context(environ) if secure else None
        ca_bundle = bundle(environ) if secure else ""
    except BadSettings as error:
        return steps.from_error(name, action, error)
    host, port = (proxy.host, proxy.port) if proxy else (origin.host, origin.port)
    if proxy:
        action += f" through the proxy {host}:{port} (HTTPS_PROXY)"
    try:
        lookup = Background(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        found = lookup.result(Deadline(_DNS_SECONDS), "asking DNS")
    except (OSError, DeadlineExceeded) as error:
        reason = getattr(error, "strerror", None) or f"no answer within {_DNS_SECONDS:g} s"
        return steps.failed(
            name,
            "dns",
            action,
            f"{host} has no address in DNS: {reason}",
            *(("Correct HTTPS_PROXY in the kubelet's environment.",) if proxy else ()),
            "The VCN's resolver is 169.254.169.254. To see what this node resolves:",
            f"  getent hosts {shlex.quote(host)}; cat /etc/resolv.conf",
        )
    addresses = ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found))
    action += f" at {addresses}" + (f", with the CA bundle {ca_bundle}" if secure else "")
    # First without TLS, because the advice differs.
    plain = Connection(Origin("http", host, port))
    try:
        plain.open(Deadline(_SECONDS))
    except (Failure, DeadlineExceeded) as error:
        address = f"{host}:{port}"
        return _not_connected(name, action, f"{error} ({addresses})", error, address, proxy)
    plain.close()
    connection = Connection(origin, (lambda: context) if context else None, proxy)
    try:
        connection.open(Deadline(_SECONDS))
    except TlsUntrusted as error:
        return steps.from_error(
            name,
            action,
            error,
            "See the step 'clock': is the clock right? Does a proxy intercept TLS? Then add its CA to"
            f" {ca_bundle}, or to a file that SSL_CERT_FILE in the provider's env names. To see the"
            " server's certificates:",
            f"  openssl s_client -connect {origin.host}:{origin.port} -showcerts </dev/null",
        )
    except (Failure, DeadlineExceeded) as error:
        if proxy and error.__cause__ is None:
            return steps.failed(
                name,
                "proxy-refused",
                action,
                str(error),
                "Configure the proxy to allow CONNECT to this host, or exclude OCI from it:",
                "  NO_PROXY=.oraclecloud.com,.ocir.io,169.254.169.254",
            )
        return _tls_failed(name, action, f"{error} ({addresses})", f"{origin.host}:{origin.port}")
    connection.close()
    via = f" through the proxy {host}:{port}" if proxy else ""
    return steps.ok(name, action, origin.host + via)


def _not_connected(
    name: str, action: str, result: str, error: Exception, address: str, proxy: Proxy | None
) -> Step:
    test = "  curl -sv -m 10 -o /dev/null " + shlex.quote(f"https://{address}/")
    if proxy:
        advice = "Correct HTTPS_PROXY in the kubelet's environment, or start the proxy. To test it:"
        return steps.failed(name, "proxy-unreachable", action, result, advice, test)
    match getattr(error.__cause__, "errno", None):
        case errno.ECONNREFUSED:
            return steps.failed(
                name,
                "connection-refused",
                action,
                result,
                "The host answers, but nothing listens on the port: the address is wrong, or a firewall"
                " rejects the connection. To test it:",
                test,
            )
        case errno.ECONNRESET | errno.EINVAL | errno.ENOTCONN:
            # Accepted and reset at once.
            return _tls_failed(name, action, result, address)
    return steps.failed(name, "no-route", action, result, _SERVICE_GATEWAY, test)


def _tls_failed(name: str, action: str, result: str, address: str) -> Step:
    return steps.failed(
        name,
        "tls-failed",
        action,
        result,
        "Something on the path ends the connection before TLS is established: a firewall that inspects"
        " host names, or a proxy. To test it:",
        f"  openssl s_client -connect {shlex.quote(address)} </dev/null",
    )


def new_client(origin: Origin, environ: Mapping[str, str]) -> Client:
    """A client with its own deadline, whose errors are the registry's."""
    return Network(Deadline(_CLIENT_SECONDS), environ).client(origin, RegistryUnreachable)


def check_clock(origin: Origin, environ: Mapping[str, str]) -> Step:
    """Compare this machine's clock with the registry's."""
    action = f"the Date of GET {origin.scheme}://{origin.netloc}/v2/"
    try:
        ahead = new_client(origin, environ).request("GET", "/v2/", dict, attempts=1).clock_ahead
    except ProviderError as error:
        return steps.skipped(CLOCK, error.code, f"no time from the registry: {error.message}")
    if ahead is None:
        return steps.skipped(CLOCK, "no-date", "the registry's answer has no date")
    # The date has whole seconds.
    if abs(ahead) <= _DRIFT_SECONDS:
        return steps.ok(CLOCK, action, f"within {max(1.0, abs(ahead)):.0f} s of OCI's")
    result = f"{abs(ahead):.0f} s {'behind' if ahead > 0 else 'ahead of'} OCI's"
    advice = (
        "OCI rejects requests that are more than 5 minutes off. Set the clock and synchronize it:",
        "  systemctl enable --now chronyd; chronyc makestep; chronyc sources",
        "with this line in chrony.conf:",
        "  server 169.254.169.254 iburst",
    )
    if abs(ahead) > CLOCK_TOLERANCE:
        return steps.failed(CLOCK, "clock-skew", action, result, *advice)
    return steps.warning(CLOCK, "clock-drift", action, result, *advice)
