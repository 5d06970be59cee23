"""A registry token for a host: everything that goes over the network, in the order that is fastest.

What can wait for nothing starts first and runs side by side: the metadata service is asked before
the larger imports begin, the session key is made and TLS is opened while it answers.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from provider.background import Background
from provider.deadline import Deadline
from provider.errors import BadSettings, RegistryUnreachable
from provider.image import Image
from provider.imds import CERTIFICATE, INTERMEDIATE, KEY, REGION_INFO, Metadata, region_info
from provider.network import Network
from provider.realm import HTTP_PORT, HTTPS_PORT, LOOPBACK, split_host
from provider.registry import (
    PUBLIC,
    UNCHECKED,
    PullCheck,
    Token,
    check_pull,
    is_oke_public,
    request_token,
)
from provider.settings import INSTANCE_PRINCIPAL, Settings
from provider.transport import Client

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey


class Grant(NamedTuple):
    """A token, who got it, and what it is worth."""

    token: Token
    principal: str
    check: PullCheck


def instance_realm_domain(deadline: Deadline) -> str:
    """The realm domain of this instance, from IMDS. Raises Imds*."""
    return region_info(Metadata((REGION_INFO,), deadline).get(REGION_INFO)).realm_domain


def exchange(
    image: Image, settings: Settings, deadline: Deadline, environ: Mapping[str, str]
) -> Grant:
    """Prove who we are to OCI and get a token for ``image``'s registry.

    One call makes four GETs to IMDS, one POST to the federation endpoint, one GET to the token
    endpoint and at most one HEAD of a manifest. Raises a ProviderError of the step that failed.
    """
    by_instance = settings.ocir_auth_method == INSTANCE_PRINCIPAL
    scheme, host, port = _registry_address(image, settings)
    metadata = (
        Metadata((REGION_INFO, CERTIFICATE, KEY, INTERMEDIATE), deadline) if by_instance else None
    )
    network = Network(deadline, environ)
    registry = network.client(host, RegistryUnreachable, port, scheme)
    registry.open_early()
    key = Background(_session_key) if by_instance else None

    from provider.principal import instance_principal, user_principal

    if metadata and key:
        principal = instance_principal(metadata, key, network)
    else:
        principal = user_principal(settings.oci_config_file, settings.oci_profile)
    token = request_token(registry, settings.registry_token_path, principal.signer)
    return Grant(token, principal.name, _check(registry, image, token, settings))


def _registry_address(image: Image, settings: Settings) -> tuple[str, str, int]:
    split = split_host(image.host)
    assert split is not None
    host, port = split
    scheme = settings.registry_protocol
    if scheme == "http" and host not in LOOPBACK:
        raise BadSettings(
            f"REGISTRY_PROTOCOL is http, and the registry {host} is not on this machine",
            "A signature or a token must not travel unencrypted: use https.",
        )
    return scheme, host, port or (HTTPS_PORT if scheme == "https" else HTTP_PORT)


def _session_key() -> "RSAPrivateKey":
    from provider.principal import session_key

    return session_key()


def _check(registry: Client, image: Image, token: Token, settings: Settings) -> PullCheck:
    if not settings.token_validation:
        return UNCHECKED
    if is_oke_public(image):
        return PUBLIC
    return check_pull(registry, image, token)
