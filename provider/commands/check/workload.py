"""Check the kubelet's config and the cluster for workload identity."""

from typing import Final

from provider.auth.workload_identity import CA_HINT, cluster_of, context, origin
from provider.commands.check import step as steps
from provider.commands.check.step import Step
from provider.commands.kubelet_config import CredentialProvider
from provider.commands.node.processes import Kubelet
from provider.errors import NoServiceAccountToken, ProviderError, TlsUntrusted, WorkloadUnreachable
from provider.net.deadline import Deadline
from provider.net.http import Connection, Failure
from provider.settings import WORKLOAD_IDENTITY, WORKLOAD_OR_INSTANCE, Settings

ATTRIBUTES: Final = "account tokens"
ROUTE: Final = "cluster route"
_SECONDS: Final = 15.0


def judge_attributes(entry: CredentialProvider | None, settings: Settings) -> Step | None:
    """Judge whether the kubelet sends service-account tokens and the settings use them.

    None if neither is the case.
    """
    method = settings.ocir_auth_method
    sent = entry is not None and entry.token_attributes is not None
    wanted = method in (WORKLOAD_IDENTITY, WORKLOAD_OR_INSTANCE)
    action = f"tokenAttributes of {entry.name}" if entry else "the kubelet's config"
    if wanted and entry is not None and not sent:
        missing = "the kubelet sends no service-account tokens: its config has no tokenAttributes"
        return steps.from_error(ATTRIBUTES, action, NoServiceAccountToken(missing))
    if sent and not wanted:
        return steps.warning(
            ATTRIBUTES,
            "tokens-not-used",
            action,
            f"the kubelet sends service-account tokens, but OCIR_AUTH_METHOD is {method}",
            f"Set OCIR_AUTH_METHOD={WORKLOAD_IDENTITY} in its env, or remove tokenAttributes.",
        )
    if not wanted:
        return None
    if entry is None or entry.token_attributes is None:
        return steps.skipped(
            ATTRIBUTES, "no-config", "no kubelet config has an entry of this program"
        )
    return steps.ok(ATTRIBUTES, action, f"for the audience {entry.token_attributes.audience}")


def check_cluster_route(settings: Settings, kubelet: Kubelet | None) -> Step:
    """Find the cluster's endpoint, connect, and verify its certificate with the cluster's CA."""
    deadline = Deadline(_SECONDS)
    action = "find the API server and its CA in the settings, the kubelet's kubeconfig, OKE's files"
    try:
        cluster = cluster_of(settings, deadline, kubelet.argv if kubelet else ())
        server = origin(cluster)
        action = f"{server.scheme}://{server.netloc} ({cluster.source})"
        connection = Connection(server, lambda: context(cluster))
        connection.open(deadline)
        connection.close()
    except Failure as failure:
        return steps.from_error(ROUTE, action, WorkloadUnreachable(str(failure)))
    except TlsUntrusted as error:
        return steps.from_error(ROUTE, action, error, CA_HINT)
    except ProviderError as error:
        return steps.from_error(ROUTE, action, error)
    return steps.ok(ROUTE, action, f"{server.netloc} answers with the cluster's certificate")
