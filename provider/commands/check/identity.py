"""Who this node is to OCI, and the registry token that it gets for that."""

from collections.abc import Mapping, Sequence
from typing import Final

from provider.auth.instance_principal import instance_principal
from provider.auth.oci_files import resource_environment, user_profile
from provider.auth.principal import Principal
from provider.auth.sdk_principals import resource_principal, user_principal
from provider.auth.service_account import ServiceAccount
from provider.auth.session_key import session_key
from provider.auth.workload_identity import EXPERIMENTAL, PATH, PORT, cluster_of, workload_principal
from provider.commands.check import step as steps
from provider.commands.check.metadata import METADATA, Instance
from provider.commands.check.step import Taken
from provider.errors import ProviderError, RegistryUnreachable
from provider.net.background import Background
from provider.net.client import Network
from provider.net.deadline import Deadline
from provider.net.http import Origin
from provider.ocir.token import Token, request_token
from provider.settings import (
    INSTANCE_PRINCIPAL,
    RESOURCE_PRINCIPAL,
    WORKLOAD_IDENTITY,
    Settings,
)

IDENTITY: Final = "identity"
TOKEN: Final = "token"
_SECONDS: Final = 15.0


def prove_identity(
    instance: Instance | None,
    settings: Settings,
    account: ServiceAccount | None,
    environ: Mapping[str, str],
    command: Sequence[str],
) -> Taken[Principal]:
    """Become the principal that the settings name. ``command`` is the kubelet's command line."""
    if settings.ocir_auth_method == WORKLOAD_IDENTITY:
        return _prove_account(settings, account, environ, command)
    if settings.ocir_auth_method == RESOURCE_PRINCIPAL:
        tried = "the environment's OCI_RESOURCE_PRINCIPAL_*"
        try:
            principal = resource_principal(resource_environment(environ), Deadline(_SECONDS))
        except ProviderError as error:
            return Taken(steps.broken(IDENTITY, tried, error))
        return Taken(steps.ok(IDENTITY, tried, principal.name), principal)
    if settings.ocir_auth_method != INSTANCE_PRINCIPAL:
        tried = f"the OCI config file {settings.oci_config_file or '~/.oci/config'}"
        try:
            profile = user_profile(settings.oci_config_file, settings.oci_profile)
            principal = user_principal(profile)
        except ProviderError as error:
            return Taken(steps.broken(IDENTITY, tried, error))
        return Taken(steps.ok(IDENTITY, tried, principal.name), principal)
    if instance is None:
        return Taken(steps.needs(IDENTITY, METADATA))
    identity = instance.identity
    where = instance.where
    tried = f"POST https://auth.{where.region}.{where.realm_domain}/v1/x509"
    network = Network(Deadline(_SECONDS), environ)
    try:
        principal = instance_principal(identity.__getitem__, Background(session_key), network)
    except ProviderError as error:
        return Taken(steps.broken(IDENTITY, tried, error))
    return Taken(steps.ok(IDENTITY, tried, f"OCI knows {principal.name}"), principal)


def _prove_account(
    settings: Settings,
    account: ServiceAccount | None,
    environ: Mapping[str, str],
    command: Sequence[str],
) -> Taken[Principal]:
    tried = f"POST {PATH} at port {PORT} of the cluster's API server"
    if account is None:
        return Taken(
            steps.not_visible(
                IDENTITY,
                tried,
                "each pod pulls as its own service account, and no account's token was given",
                "Give one, to see what that account may pull:",
                "  kubectl create token ACCOUNT --namespace NAMESPACE --audience AUDIENCE |"
                " oke-credential-provider check --service-account-token - IMAGE",
            )
        )
    network = Network(Deadline(_SECONDS), environ)
    try:
        key = Background(session_key)
        cluster = cluster_of(settings, network.deadline, command)
        principal = workload_principal(account, cluster, key, network)
    except ProviderError as error:
        return Taken(steps.broken(IDENTITY, tried, error))
    return Taken(steps.ok(IDENTITY, tried, f"OCI knows {principal.name}"), principal)


def federation_origin(instance: Instance) -> Origin:
    """Where this instance proves who it is."""
    return Origin("https", f"auth.{instance.where.region}.{instance.where.realm_domain}", 443)


def get_token(
    principal: Principal | None, origin: Origin, settings: Settings, environ: Mapping[str, str]
) -> Taken[Token]:
    """A new token; those that calls share are not touched."""
    if principal is None:
        return Taken(steps.needs(TOKEN, IDENTITY))
    path = settings.registry_token_path
    tried = f"GET {origin.scheme}://{origin.netloc}{path}"
    try:
        client = Network(Deadline(_SECONDS), environ).client(origin, RegistryUnreachable)
        token = request_token(client, path, principal.signer)
    except ProviderError as error:
        experimental = (EXPERIMENTAL,) if settings.ocir_auth_method == WORKLOAD_IDENTITY else ()
        return Taken(steps.broken(TOKEN, tried, error, error.hint, *experimental))
    tried += f" (opc-request-id {token.request_id})"
    return Taken(steps.ok(TOKEN, tried, f"good for {token.expires_in} s"), token)
