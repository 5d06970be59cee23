"""Get the node's principal and a registry token, as a kubelet call does."""

from collections.abc import Mapping, Sequence
from typing import Final

from provider.auth.instance_principal import federation_origin, instance_principal
from provider.auth.oci_files import resource_environment, user_profile
from provider.auth.principal import Principal
from provider.auth.sdk_principals import resource_principal, user_principal
from provider.auth.service_account import ServiceAccount
from provider.auth.session_key import session_key
from provider.auth.workload_identity import EXPERIMENTAL, PATH, PORT, cluster_of, workload_principal
from provider.commands.check import step as steps
from provider.commands.check.metadata import METADATA, Instance
from provider.commands.check.route import new_client
from provider.commands.check.step import Outcome
from provider.errors import ProviderError
from provider.net.background import Background
from provider.net.client import Network
from provider.net.deadline import Deadline
from provider.net.http import Origin
from provider.ocir.token import Token, request_token
from provider.settings import INSTANCE_PRINCIPAL, RESOURCE_PRINCIPAL, WORKLOAD_IDENTITY, Settings

IDENTITY: Final = "identity"
TOKEN: Final = "token"
_SECONDS: Final = 15.0


def get_principal(
    instance: Instance | None,
    settings: Settings,
    account: ServiceAccount | None,
    environ: Mapping[str, str],
    command: Sequence[str],
) -> Outcome[Principal]:
    """Authenticate with the method of the settings. ``command`` is the kubelet's command line."""
    method = settings.ocir_auth_method
    network = Network(Deadline(_SECONDS), environ)
    try:
        if method == WORKLOAD_IDENTITY:
            action = f"POST {PATH} at port {PORT} of the cluster's API server"
            if account is None:
                return Outcome(_no_account(action))
            key = Background(session_key)
            cluster = cluster_of(settings, network.deadline, command)
            principal = workload_principal(account, cluster, key, network)
        elif method == RESOURCE_PRINCIPAL:
            action = "read OCI_RESOURCE_PRINCIPAL_* in the environment"
            principal = resource_principal(resource_environment(environ), network.deadline)
        elif method != INSTANCE_PRINCIPAL:
            action = f"read the OCI config file {settings.oci_config_file or '~/.oci/config'}"
            profile = user_profile(settings.oci_config_file, settings.oci_profile)
            principal = user_principal(profile)
        elif instance is None:
            return Outcome(steps.blocked(IDENTITY, METADATA))
        else:
            origin = federation_origin(instance.where)
            action = f"POST {origin.scheme}://{origin.netloc}/v1/x509"
            read = instance.identity.__getitem__
            principal = instance_principal(read, Background(session_key), network)
    except ProviderError as error:
        return Outcome(steps.from_error(IDENTITY, action, error))
    known = "OCI knows " if method in (WORKLOAD_IDENTITY, INSTANCE_PRINCIPAL) else ""
    return Outcome(steps.ok(IDENTITY, action, f"{known}{principal.name}"), principal)


def _no_account(action: str) -> steps.Step:
    return steps.not_visible(
        IDENTITY,
        action,
        "each pod pulls as its own service account, and no service-account token was given",
        "To check what a service account can pull, pass a token of it:",
        "  kubectl create token ACCOUNT --namespace NAMESPACE --audience AUDIENCE |"
        " oke-credential-provider check --service-account-token - IMAGE",
    )


def get_token(
    principal: Principal | None, origin: Origin, settings: Settings, environ: Mapping[str, str]
) -> Outcome[Token]:
    """Request a new registry token, without the credential cache."""
    if principal is None:
        return Outcome(steps.blocked(TOKEN, IDENTITY))
    path = settings.registry_token_path
    action = f"GET {origin.scheme}://{origin.netloc}{path}"
    try:
        token = request_token(new_client(origin, environ), path, principal.signer)
    except ProviderError as error:
        experimental = (EXPERIMENTAL,) if settings.ocir_auth_method == WORKLOAD_IDENTITY else ()
        return Outcome(steps.from_error(TOKEN, action, error, error.hint, *experimental))
    action += f" (opc-request-id {token.request_id})"
    return Outcome(steps.ok(TOKEN, action, f"valid for {token.expires_in} s"), token)
