"""A registry token for a host: everything that goes over the network, in the order that is fastest.

What can wait for nothing starts first and runs side by side: the metadata service is asked before
the larger imports begin; the session key is made and TLS is opened while it answers.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from provider.auth.imds import CERTIFICATE, INTERMEDIATE, KEY, REGION_INFO, Metadata, region_info
from provider.errors import BadSettings, RegistryUnreachable, TokenRefused
from provider.image import Image
from provider.net.background import Background
from provider.net.clients import Network
from provider.net.deadline import Deadline
from provider.net.http import Client, Origin
from provider.ocir.hosts import HTTP_PORT, HTTPS_PORT, LOOPBACK, RegionInfo, split_host
from provider.ocir.registry import check_pull, request_token
from provider.ocir.token import Grant, PullCheck, Token, check_without_asking
from provider.settings import INSTANCE_PRINCIPAL, WORKLOAD_IDENTITY, Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from provider.auth.oci_files import ResourceEnvironment, UserProfile
    from provider.auth.principal import Principal
    from provider.auth.service_account import ServiceAccount

    # None stands for the node.
    Subject = ServiceAccount | UserProfile | ResourceEnvironment | None


def instance_region(deadline: Deadline) -> RegionInfo:
    """The region of this instance, from IMDS. Raises Imds*."""
    return region_info(Metadata((REGION_INFO,), deadline).get(REGION_INFO))


def reach(image: Image, settings: Settings, deadline: Deadline, environ: Mapping[str, str]) -> None:
    """Connect to ``image``'s registry, TLS included, and send no request.

    Raises RegistryUnreachable, TlsUntrusted, BadSettings, DeadlineExceeded.
    """
    registry = Network(deadline, environ).client(
        registry_origin(image.host, settings), RegistryUnreachable
    )
    try:
        registry.connect()
    except RegistryUnreachable as error:
        raise RegistryUnreachable(
            f"{error.message}; no known region has this registry",
            f"Check the region in the image's name. {error.hint}",
        ) from error


def exchange(
    image: Image,
    settings: Settings,
    subject: "Subject",
    deadline: Deadline,
    environ: Mapping[str, str],
    identity: AbstractContextManager[Callable[[RegionInfo], None]],
) -> Grant:
    """Prove who we are to OCI and get a token for ``image``'s registry.

    As an instance it makes four GETs to IMDS, one POST to the federation endpoint, one GET to the
    token endpoint and at most one HEAD of a manifest. ``subject`` is whose identity is proved.
    ``identity`` is entered while that happens, and told the instance's region. Raises the ProviderError
    of the step that failed.
    """
    by_instance = settings.ocir_auth_method == INSTANCE_PRINCIPAL
    origin = registry_origin(image.host, settings)
    paths = (REGION_INFO, CERTIFICATE, KEY, INTERMEDIATE)
    by_account = settings.ocir_auth_method == WORKLOAD_IDENTITY
    with identity as learn:
        metadata = Metadata(paths, deadline) if by_instance else None
        # First, since it takes longest, and runs on another core.
        key = _session_key() if by_instance or by_account else None
        network = Network(deadline, environ)
        registry = network.client(origin, RegistryUnreachable)
        registry.open_early()

        from provider.auth.principal import instance_principal

        if metadata and key:
            principal = instance_principal(metadata.get, key, network)
            if principal.region:
                learn(principal.region)
        else:
            principal = _principal_of(subject, key, settings, network)
    if by_account:
        return _as_workload(image, settings, subject, principal, registry)
    token = request_token(registry, settings.registry_token_path, principal.signer)
    known = check_without_asking(image, settings)
    pull = known or check_pull(registry, image, token)
    return Grant(token, principal.name, pull)


def _principal_of(
    subject: "Subject",
    key: "Background[RSAPrivateKey] | None",
    settings: Settings,
    network: Network,
) -> "Principal":
    from provider.auth.oci_files import ResourceEnvironment, UserProfile
    from provider.auth.principal import resource_principal, user_principal

    if isinstance(subject, UserProfile):
        return user_principal(subject)
    if isinstance(subject, ResourceEnvironment):
        return resource_principal(subject, network.deadline)
    assert subject and key

    from provider.auth.kubeconfig import kubelet_command
    from provider.auth.workload_identity import cluster_of, workload_principal

    cluster = cluster_of(settings, network.deadline, kubelet_command())
    return workload_principal(subject, cluster, key, network)


def _as_workload(
    image: Image,
    settings: Settings,
    subject: "Subject",
    principal: "Principal",
    registry: Client,
) -> Grant:
    from provider.auth.service_account import ServiceAccount
    from provider.auth.workload_identity import EXPERIMENTAL

    assert isinstance(subject, ServiceAccount)
    try:
        token = request_token(registry, settings.registry_token_path, principal.signer)
    except TokenRefused as error:
        raise TokenRefused(f"{error.message}. {EXPERIMENTAL}") from error
    # Not beyond what the cluster said of the account.
    token = token._replace(life=min(token.life, subject.life))
    pull = check_without_asking(image, settings) or check_pull(registry, image, token)
    if pull.passed is False:
        pull = pull._replace(outcome=f"{pull.outcome}. {EXPERIMENTAL}")
    return Grant(token, principal.name, pull)


def check(
    image: Image, token: Token, settings: Settings, deadline: Deadline, environ: Mapping[str, str]
) -> PullCheck:
    """Ask the registry about one more image with a token that is there already. Raises BadSettings."""
    registry = Network(deadline, environ).client(
        registry_origin(image.host, settings), RegistryUnreachable
    )
    return check_pull(registry, image, token)


def registry_origin(image_host: str, settings: Settings) -> Origin:
    """Where the registry that an image names is asked. Raises BadSettings."""
    split = split_host(image_host)
    assert split is not None  # the host rules let nothing else come here
    host, port = split
    scheme = settings.registry_protocol
    if scheme == "http" and host not in LOOPBACK:
        raise BadSettings(
            f"REGISTRY_PROTOCOL is http, and the registry {host} is not on this machine",
            "A signature or a token must not travel unencrypted: use https.",
        )
    return Origin(scheme, host, port or (HTTPS_PORT if scheme == "https" else HTTP_PORT))


def _session_key() -> "Background[RSAPrivateKey]":
    # Imported here and not in the thread: threads that import take turns.
    from provider.auth.session_key import session_key

    return Background(session_key)
