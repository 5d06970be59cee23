"""The exchange of an identity for registry credentials, in the fastest order.

Steps that depend on nothing start first and run in parallel: IMDS is asked before the larger imports begin. While
it answers, the session key is made and TLS connections are opened.
"""

from typing import TYPE_CHECKING, NamedTuple

from provider.auth.imds import CERTIFICATE, INTERMEDIATE, KEY, REGION_INFO, Metadata, region_info
from provider.auth.region import RegionInfo
from provider.errors import BadSettings, RegistryUnreachable, TokenRefused
from provider.image import Image
from provider.invocation import Invocation
from provider.net.background import Background
from provider.net.client import Client, Network
from provider.net.deadline import Deadline
from provider.net.hostname import HTTP_PORT, HTTPS_PORT, LOOPBACK, split_host
from provider.net.http import Origin
from provider.ocir.credentials import (
    PullCheck,
    RegistryCredentials,
    check_without_request,
)
from provider.ocir.pull_check import check_pull
from provider.ocir.token import Token, request_token
from provider.settings import INSTANCE_PRINCIPAL, WORKLOAD_IDENTITY, Settings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from provider.auth.principal import Principal


class Proof(NamedTuple):
    """A principal, and a client for the image's registry, which may already be connected."""

    principal: "Principal"
    registry: Client


def instance_region(deadline: Deadline) -> RegionInfo:
    """Ask IMDS for the region of this instance. Raises Imds*, DeadlineExceeded."""
    return region_info(Metadata((REGION_INFO,), deadline).get(REGION_INFO))


def connect(image: Image, invocation: Invocation) -> None:
    """Connect to the registry of ``image``, including TLS, without a request.

    Raises RegistryUnreachable, TlsUntrusted, BadSettings, DeadlineExceeded.
    """
    try:
        _registry(image, invocation, Network(invocation.deadline, invocation.environ)).connect()
    except RegistryUnreachable as error:
        raise RegistryUnreachable(
            f"{error.message}; no known region has this registry",
            f"Check the region in the image's name. {error.hint}",
        ) from error


def prove_identity(image: Image, invocation: Invocation) -> Proof:
    """Prove the identity of ``invocation`` to OCI, and start to connect to the registry of ``image``.

    For an instance principal, this sends four GET requests to IMDS and one POST to the federation endpoint.
    Raises the ProviderError of the step that failed.
    """
    method = invocation.settings.ocir_auth_method
    paths = (REGION_INFO, CERTIFICATE, KEY, INTERMEDIATE)
    metadata = Metadata(paths, invocation.deadline) if method == INSTANCE_PRINCIPAL else None
    # The session key is next: it takes longest, and runs on another core.
    key = _session_key() if method in (INSTANCE_PRINCIPAL, WORKLOAD_IDENTITY) else None
    network = Network(invocation.deadline, invocation.environ)
    registry = _registry(image, invocation, network)
    registry.preconnect()
    if metadata and key:
        from provider.auth.instance_principal import instance_principal

        return Proof(instance_principal(metadata.get, key, network), registry)
    return Proof(_principal_of(invocation, key, network), registry)


def get_credentials(image: Image, invocation: Invocation, proof: Proof) -> RegistryCredentials:
    """Get a registry token for ``proof``, and check whether it may pull ``image``.

    This sends one GET to the token endpoint, and at most two requests for a manifest. Raises TokenRefused,
    TokenMalformed, ClockSkew, RegistryUnreachable, TlsUntrusted, DeadlineExceeded.
    """
    principal, registry = proof
    caveat = f". {principal.caveat}" if principal.caveat else ""
    try:
        token = request_token(registry, invocation.settings.registry_token_path, principal.signer)
    except TokenRefused as error:
        raise TokenRefused(f"{error.message}{caveat}") from error
    if principal.expires_in is not None:
        token = token._replace(expires_in=min(token.expires_in, principal.expires_in))
    check = check_without_request(image, invocation.settings) or check_pull(registry, image, token)
    if check.status == "denied":
        check = check._replace(text=f"{check.text}{caveat}")
    return RegistryCredentials(token, principal.name, check)


def check_token(image: Image, invocation: Invocation, token: Token) -> PullCheck:
    """Check whether ``token`` may pull ``image``. Raises BadSettings."""
    network = Network(invocation.deadline, invocation.environ)
    return check_pull(_registry(image, invocation, network), image, token)


def registry_origin(image_host: str, settings: Settings) -> Origin:
    """Return the address of the registry that an image names. Raises BadSettings."""
    split = split_host(image_host)
    assert split is not None  # is_ocir accepts no other host
    host, port = split
    scheme = settings.registry_protocol
    if scheme == "http" and host not in LOOPBACK:
        raise BadSettings(
            f"REGISTRY_PROTOCOL is http, and the registry {host} is not on this machine",
            "Use https: signatures and tokens must not be sent unencrypted.",
        )
    return Origin(scheme, host, port or (HTTPS_PORT if scheme == "https" else HTTP_PORT))


def _registry(image: Image, invocation: Invocation, network: Network) -> Client:
    return network.client(registry_origin(image.host, invocation.settings), RegistryUnreachable)


def _session_key() -> "Background[RSAPrivateKey]":
    # Imported here and not in the thread: threads wait for each other while they import.
    from provider.auth.session_key import session_key

    return Background(session_key)


def _principal_of(
    invocation: Invocation, key: "Background[RSAPrivateKey] | None", network: Network
) -> "Principal":
    from provider.auth.oci_files import ResourceEnvironment, UserProfile
    from provider.auth.service_account import ServiceAccount

    match invocation.subject:
        case UserProfile() as profile:
            from provider.auth.sdk_principals import user_principal

            return user_principal(profile)
        case ResourceEnvironment() as resource:
            from provider.auth.sdk_principals import resource_principal

            return resource_principal(resource, invocation.deadline)
        case ServiceAccount() as account if key:
            from provider.auth.kubeconfig import kubelet_command
            from provider.auth.workload_identity import cluster_of, workload_principal

            cluster = cluster_of(invocation.settings, invocation.deadline, kubelet_command())
            return workload_principal(account, cluster, key, network)
    raise AssertionError("unreachable: subject_of returns no other subject")
