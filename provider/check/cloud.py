"""Asks OCI, step by step, with the parts that a real call uses, and says what each answer means."""

import errno
import json
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar

from provider.background import Background
from provider.check import step as steps
from provider.check.iam import Ocids, node_may_read, user_may_read
from provider.check.step import Step
from provider.deadline import Deadline
from provider.errors import (
    BadSettings,
    DeadlineExceeded,
    ImdsUnusable,
    ProviderError,
    RegistryUnreachable,
    TlsUntrusted,
)
from provider.exchange import registry_origin
from provider.grant import PullCheck, Token
from provider.image import Image
from provider.imds import (
    CERTIFICATE,
    INTERMEDIATE,
    IPV4,
    KEY,
    REGION_INFO,
    Metadata,
    RegionInfo,
    region_info,
)
from provider.network import Network
from provider.principal import Principal, instance_principal, session_key, user_principal
from provider.realm import REALM_DOMAINS, claimed_realm_domain, is_ocir
from provider.registry import check_pull, request_token
from provider.settings import INSTANCE_PRINCIPAL, Settings
from provider.sharing import Shared, shared
from provider.store import FOLDER, SYSTEM_PARENT, Odd
from provider.transport import CLOCK_TOLERANCE, Client, Connection, Failure, Origin
from provider.trust import bundle, proxy_for, tls_context

METADATA: Final = "metadata"
REGISTRY_NAME: Final = "registry name"
REGISTRY_ROUTE: Final = "registry route"
FEDERATION_ROUTE: Final = "federation route"
CLOCK: Final = "clock"
IDENTITY: Final = "identity"
TOKEN: Final = "token"
PULL: Final = "pull"
STORE: Final = "shared tokens"

PULL_SECRETS: Final = (
    "imagePullSecrets are not the matter: the kubelet tries a pod's own first, and then these"
    " credentials all the same."
)
_INSTANCE: Final = "/instance/"
_SECONDS: Final = 15.0
_METADATA_SECONDS: Final = 8.0
_DNS_SECONDS: Final = 5.0
# Far from OCI's limit, and yet a sign that nobody keeps the clock.
_DRIFT_SECONDS: Final = 30.0
_SERVICE_GATEWAY: Final = (
    "A private subnet needs a Service Gateway for 'All <region> Services In Oracle Services Network'"
    " with a route rule to it (or a NAT gateway), and security rules that let TCP 443 out. To see it:",
)

T = TypeVar("T")


class Taken(NamedTuple, Generic[T]):
    """A step, and what it yielded if it went well."""

    step: Step
    value: T | None = None


def timed_taken(take: Callable[[], Taken[T]]) -> Taken[T]:
    """Take a step that yields something, and note how long it took."""
    values: list[T | None] = []

    def noted() -> Step:
        taken = take()
        values.append(taken.value)
        return taken.step

    return Taken(steps.timed(noted), values[0])


@dataclass(frozen=True, slots=True)
class Instance:
    """What the metadata service says. ``identity`` holds secrets: the bodies by their path."""

    where: RegionInfo
    identity: Mapping[str, bytes]
    ocids: Ocids
    metadata: Mapping[str, object]


def ask_metadata() -> Taken[Instance]:
    """All that a call asks of the metadata service, and the instance's own description."""
    tried = f"GET http://{IPV4.netloc}/opc/v2 {REGION_INFO} {CERTIFICATE} {KEY} {INTERMEDIATE}"
    deadline = Deadline(_METADATA_SECONDS)
    paths = (REGION_INFO, CERTIFICATE, KEY, INTERMEDIATE)
    try:
        metadata = Metadata((*paths, _INSTANCE), deadline)
        identity = {path: metadata.get(path) for path in paths}
        where = region_info(identity[REGION_INFO])
    except ImdsUnusable as error:
        return Taken(_unusable(tried, error))
    except ProviderError as error:
        return Taken(steps.broken(METADATA, tried, error))
    try:
        described = json.loads(metadata.get(_INSTANCE))
    except (ProviderError, ValueError, RecursionError):
        described = None  # only the advice needs it
    described = described if isinstance(described, dict) else {}
    told = {
        field: described[name]
        for field, name in (
            ("instance", "id"),
            ("compartment", "compartmentId"),
            ("tenancy", "tenantId"),
        )
        if isinstance(described.get(name), str)
    }
    attributes = described.get("metadata")
    came = f"{where.region} of {where.realm_domain}" + (
        f", after {metadata.retries} retries" if metadata.retries else ""
    )
    return Taken(
        steps.ok(METADATA, tried, came),
        Instance(
            where, identity, Ocids(**told), attributes if isinstance(attributes, dict) else {}
        ),
    )


def _unusable(tried: str, error: ImdsUnusable) -> Step:
    if (
        _metadata_status("/opc/v1/instance/") == 200
        and _metadata_status("/opc/v2/instance/") == 404
    ):
        return steps.failed(
            METADATA,
            "imds-v1-only",
            tried,
            f"only version 1 of the metadata service answers here: {error.message}",
            "Version 2 is needed. Allow it (Console: Instance details, Instance metadata service), or"
            " make the node anew from a current image.",
        )
    if _metadata_status("/opc/v2/instance/") in (401, 403):
        return steps.failed(
            METADATA,
            "imds-forwarded",
            tried,
            f"the metadata service takes the request for a forwarded one: {error.message}",
            "Something on this node carries requests for 169.254.169.254 through a proxy (this program"
            " uses none for it), or this is no OCI instance. Look for a redirect, and take the address"
            " out of it:",
            "  iptables -t nat -S | grep -e 169.254 -e REDIRECT -e DNAT",
        )
    return steps.broken(METADATA, tried, error)


def _metadata_status(path: str) -> int | None:
    deadline = Deadline(_DNS_SECONDS)
    connection = Connection(IPV4)
    headers = {"host": IPV4.netloc, "authorization": "Bearer Oracle", "connection": "close"}
    try:
        connection.open(deadline)
        connection.send("GET", path, headers, b"", deadline)
        return connection.receive(1 << 20, deadline).status
    except (Failure, DeadlineExceeded):
        return None
    finally:
        connection.close()


def judge_name(host: str, settings: Settings, where: RegionInfo | None) -> Step:
    """Is this a registry of OCI's, and of the node's realm?"""
    tried = f"the rules for registry names, for {host}"
    by_instance = settings.ocir_auth_method == INSTANCE_PRINCIPAL
    claimed = claimed_realm_domain(host)
    own = by_instance and where is not None and claimed == where.realm_domain
    if not own and not is_ocir(host, settings.ocir_hosts):
        return steps.failed(
            REGISTRY_NAME,
            "registry-not-ocir",
            tried,
            f"{host} is none of OCI's registry names, so this program gives no credentials for it",
            "Correct the image's name. If it is a registry of a dedicated region, list it in the"
            " provider's env:",
            f"  OCIR_HOSTS={host}",
        )
    domain = claimed or (REALM_DOMAINS["oc1"] if host.lower().endswith(".ocir.io") else None)
    if by_instance and where and domain in REALM_DOMAINS.values() and domain != where.realm_domain:
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
    first = Origin("http", proxy.host, proxy.port) if proxy else origin
    if proxy:
        tried += f" by the proxy {proxy.host}:{proxy.port} (HTTPS_PROXY)"
    try:
        look = Background(
            lambda: socket.getaddrinfo(first.host, first.port, type=socket.SOCK_STREAM)
        )
        found = look.result(Deadline(_DNS_SECONDS), f"asking DNS for {first.host}")
        addresses = ", ".join(dict.fromkeys(str(entry[4][0]) for entry in found))
    except (OSError, DeadlineExceeded) as error:
        reason = (
            error.strerror if isinstance(error, OSError) else f"no answer in {_DNS_SECONDS:g} s"
        )
        return steps.failed(
            name,
            "dns",
            tried,
            f"{first.host} has no address in DNS: {reason}",
            *(("Correct HTTPS_PROXY in the kubelet's environment.",) if proxy else ()),
            "The VCN's resolver is 169.254.169.254. To see what answers here:",
            f"  getent hosts {first.host}; cat /etc/resolv.conf",
        )
    plain = Connection(Origin("http", first.host, first.port))
    connection = Connection(origin, (lambda: context) if context else None, proxy)
    try:
        plain.open(Deadline(_SECONDS))
        plain.close()
        connection.open(Deadline(_SECONDS))
        connection.close()
    except TlsUntrusted as error:
        return steps.broken(
            name,
            f"{tried}, trusting {trusted}",
            error,
            "Is the clock right (see there)? Does a proxy intercept TLS? Then its CA must be in"
            f" {trusted}, or in a file that SSL_CERT_FILE in the provider's env names. Who answers:",
            f"  openssl s_client -connect {origin.host}:{origin.port} -showcerts </dev/null",
        )
    except (Failure, DeadlineExceeded) as error:
        return _unreached(name, tried, first, addresses, error, by_proxy=proxy is not None)
    secured = f", TLS trusted by {trusted}" if secure else ""
    via = f", by the proxy {first.netloc}" if proxy else ""
    return steps.ok(name, tried, f"{origin.host}{via} ({addresses}){secured}")


def _unreached(
    name: str, tried: str, first: Origin, addresses: str, error: Exception, by_proxy: bool
) -> Step:
    came = f"{error} ({first.host} is {addresses})"
    if "connecting to" not in str(error):
        if by_proxy and error.__cause__ is None:
            return steps.failed(
                name,
                "proxy-refused",
                tried,
                came,
                "The proxy must allow CONNECT to this host; or let OCI be reached without it:",
                "  NO_PROXY=.oraclecloud.com,.ocir.io,169.254.169.254",
            )
        return steps.failed(
            name,
            "tls-failed",
            tried,
            came,
            "Something on the way ends the connection before TLS is set up: a firewall that looks at"
            " host names, or a proxy. To see it:",
            f"  openssl s_client -connect {first.host}:{first.port} </dev/null",
        )
    see = f"  curl -sv -m 10 -o /dev/null https://{first.host}:{first.port}/"
    if by_proxy:
        advice = "Correct HTTPS_PROXY in the kubelet's environment, or start the proxy. To see it:"
        return steps.failed(name, "proxy-unreachable", tried, came, advice, see)
    if getattr(error.__cause__, "errno", None) == errno.ECONNREFUSED:
        return steps.failed(
            name,
            "connection-refused",
            tried,
            came,
            "The way is open, but nobody listens there: a wrong address, or a firewall that refuses.",
            see,
        )
    return steps.failed(name, "no-route", tried, came, *_SERVICE_GATEWAY, see)


def look_at_clock(origin: Origin, environ: Mapping[str, str]) -> Step:
    """How far is this machine's clock from the registry's?"""
    tried = f"the Date of GET {origin.scheme}://{origin.netloc}/v2/"
    try:
        client = _client(origin, RegistryUnreachable, environ)
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


def prove_identity(
    instance: Instance | None, settings: Settings, environ: Mapping[str, str]
) -> Taken[Principal]:
    """Become the principal that the settings name."""
    if settings.ocir_auth_method != INSTANCE_PRINCIPAL:
        tried = f"the OCI config file {settings.oci_config_file or '~/.oci/config'}"
        try:
            principal = user_principal(settings.oci_config_file, settings.oci_profile)
        except ProviderError as error:
            return Taken(steps.broken(IDENTITY, tried, error))
        return Taken(steps.ok(IDENTITY, tried, principal.name), principal)
    if instance is None:
        return Taken(needs(IDENTITY, METADATA))
    identity = instance.identity
    where = instance.where
    tried = f"POST https://auth.{where.region}.{where.realm_domain}/v1/x509"
    network = Network(Deadline(_SECONDS), environ)
    try:
        principal = instance_principal(identity.__getitem__, Background(session_key), network)
    except ProviderError as error:
        return Taken(steps.broken(IDENTITY, tried, error))
    return Taken(steps.ok(IDENTITY, tried, f"OCI knows this node: {principal.name}"), principal)


def federation_origin(instance: Instance) -> Origin:
    """Where this instance proves who it is."""
    return Origin("https", f"auth.{instance.where.region}.{instance.where.realm_domain}", 443)


def get_token(
    principal: Principal | None, origin: Origin, settings: Settings, environ: Mapping[str, str]
) -> Taken[Token]:
    """A new token; those that calls share are not touched."""
    if principal is None:
        return Taken(needs(TOKEN, IDENTITY))
    path = settings.registry_token_path
    tried = f"GET {origin.scheme}://{origin.netloc}{path}"
    try:
        client = _client(origin, RegistryUnreachable, environ)
        token = request_token(client, path, principal.signer)
    except ProviderError as error:
        return Taken(steps.broken(TOKEN, tried, error))
    came = f"good for {token.life} s (opc-request-id {token.request_id})"
    return Taken(steps.ok(TOKEN, tried, came), token)


@dataclass(frozen=True, slots=True)
class Repository:
    """What the registry says of a repository, to our token and to nobody in particular.

    ``public`` and ``exists`` are None where that was not asked or not told.
    """

    check: PullCheck
    public: bool | None = None
    exists: bool | None = None


def try_pull(
    image: Image, token: Token | None, settings: Settings, environ: Mapping[str, str], ocids: Ocids
) -> Step:
    """May the principal pull this image, and may everybody?"""
    if token is None:
        return needs(PULL, TOKEN)
    try:
        client = _client(registry_origin(image.host, settings), RegistryUnreachable, environ)
        check = check_pull(client, image, token)
        public = exists = None
        if check.outcome == "allowed":
            public = _is_public(client, image, settings)
        elif check.passed:
            exists = _exists(client, image, token)
    except BadSettings as error:
        return steps.broken(PULL, image.host, error)
    by_instance = settings.ocir_auth_method == INSTANCE_PRINCIPAL
    may_read = node_may_read(ocids) if by_instance else user_may_read(ocids)
    return judge_pull(image, Repository(check, public, exists), may_read)


def _is_public(client: Client, image: Image, settings: Settings) -> bool | None:
    """Does the image come without credentials too, the way a container runtime would ask?"""
    scope = f"service={image.host}&scope=repository:{image.repository}:pull"
    try:
        answer = client.request("GET", f"{settings.registry_token_path}?{scope}", dict, attempts=1)
        if answer.status != 200:
            return False
        token = Token(str(json.loads(answer.body)["token"]), 1, "")
        return check_pull(client, image, token).outcome == "allowed"
    except (ProviderError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _exists(client: Client, image: Image, token: Token) -> bool | None:
    headers = {"authorization": f"Bearer {token.text}"}
    target = f"/v2/{image.repository}/tags/list?n=1"
    try:
        status = client.request("GET", target, lambda: headers, attempts=1).status
    except ProviderError:
        return None
    return {200: True, 404: False}.get(status)


def judge_pull(image: Image, repository: Repository, may_read: tuple[str, ...]) -> Step:
    """What the registry's answers mean. Pure."""
    check = repository.check
    name = f"{image.host}/{image.repository}"
    tried = f"HEAD /v2/{image.repository}/manifests/{image.reference} at {image.host}"
    named = image.tag or image.digest
    if check.passed is False:
        namespace = image.repository.partition("/")[0]
        return steps.failed(
            PULL,
            "repository-denied",
            tried,
            f"{name}: {check.outcome}",
            *may_read,
            f"Is {namespace!r} this tenancy's Object Storage namespace? The registry does not say. If it"
            " is another tenancy's, both need policies (endorse here, admit there). To see ours:",
            "  oci os ns get --auth instance_principal",
            PULL_SECRETS,
        )
    if check.passed is None:
        return steps.failed(
            PULL, "pull-unclear", tried, f"{name}: {check.outcome}", "Run this check once more."
        )
    if repository.public:
        return steps.ok(
            PULL,
            tried,
            f"{name} may be pulled, but by everybody: it is public, and proves nothing of policies",
            "Name a private image to check those.",
        )
    if check.outcome == "allowed":
        return steps.ok(PULL, tried, f"{name} may be pulled")
    if repository.exists is False:
        return steps.failed(
            PULL,
            "no-such-repository",
            tried,
            f"{name} does not exist, as far as this principal may see; credentials are not the matter",
            "Correct the image's name, or push it. The repositories that there are:",
            "  oci artifacts container repository list --compartment-id <OCID>"
            " --compartment-id-in-subtree true",
        )
    if not named:
        came = f"{name} may be pulled; it has no tag 'latest', name the tag to check that too"
        return steps.ok(PULL, tried, came)
    return steps.failed(
        PULL,
        "no-such-tag",
        tried,
        f"{name} may be pulled, but has no {image.reference}; credentials are not the matter",
        "Correct the tag or digest, or push it.",
    )


def look_at_store(
    image: Image | None,
    fresh: Step,
    settings: Settings,
    environ: Mapping[str, str],
) -> Step:
    """What calls share at present; ``fresh`` is what ``try_pull`` said with a new token."""
    folder = os.path.join(SYSTEM_PARENT, FOLDER)
    tried = folder
    if not settings.token_cache:
        return steps.skipped(STORE, "token-cache-off", "TOKEN_CACHE is disabled")
    if os.geteuid() != 0 and os.path.lexists(folder):
        return steps.not_visible(STORE, tried, f"{folder} is root's", "Run it as root.")
    if not os.path.lexists(folder):
        return steps.ok(STORE, tried, f"{folder} is not there yet: no call has got a token")
    try:
        entries = shared(environ)
        stale = _stale(entries, image, settings, environ) if fresh.cause == "ok" and image else None
    except Odd as fault:
        return steps.warning(
            STORE,
            "store-odd",
            tried,
            f"calls share no tokens, each makes an exchange of its own: {fault}",
            "The folder is made anew by the next call:",
            f"  rm -r {folder}",
        )
    came = "; ".join(map(_told, entries)) or "no token is shared at present"
    if stale:
        return steps.warning(
            STORE,
            "token-older-than-policy",
            tried,
            f"{came}; a new token may pull {image.repository if image else ''}, the shared one not:"
            " it is older than the policy or the dynamic group",
            "Calls notice, and get a new one. What the kubelet keeps in its memory lasts until its"
            " cacheDuration is over, or:",
            "  systemctl restart kubelet",
        )
    return steps.ok(STORE, tried, came)


def _stale(
    entries: list[Shared], image: Image, settings: Settings, environ: Mapping[str, str]
) -> bool:
    origin = registry_origin(image.host, settings)
    tokens = [entry.token for entry in entries if entry.token and entry.host == image.host.lower()]
    return any(
        check_pull(_client(origin, RegistryUnreachable, environ), image, token).passed is False
        for token in tokens
    )


def _told(entry: Shared) -> str:
    age = f"{entry.age:.0f} s old"
    if entry.failure:
        return f"{entry.host}: a failure ({entry.failure}), {age}"
    return f"{entry.host}: a token of {entry.principal}, {age}, {entry.life} s left"


def _client(origin: Origin, unreachable: type[ProviderError], environ: Mapping[str, str]) -> Client:
    return Network(Deadline(_SECONDS), environ).client(origin, unreachable)


def needs(name: str, earlier: str) -> Step:
    """A step that an earlier one's failure left out."""
    return steps.skipped(name, "needs-earlier-step", f"needs the step {earlier!r}")
