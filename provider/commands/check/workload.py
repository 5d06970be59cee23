"""Workload identity: do the kubelet's config and the cluster do their part?"""

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
    """Does the kubelet send service-account tokens, and are they used? None when neither is so."""
    method = settings.ocir_auth_method
    asked = entry is not None and entry.token_attributes is not None
    wanted = method in (WORKLOAD_IDENTITY, WORKLOAD_OR_INSTANCE)
    tried = f"tokenAttributes of {entry.name}" if entry else "the kubelet's config"
    if wanted and entry is not None and not asked:
        missing = "the kubelet sends no service-account tokens: its config has no tokenAttributes"
        error = NoServiceAccountToken(missing)
        return steps.broken(ATTRIBUTES, tried, error)
    if asked and not wanted:
        return steps.warning(
            ATTRIBUTES,
            "tokens-not-used",
            tried,
            f"the kubelet sends service-account tokens, and OCIR_AUTH_METHOD is {method}",
            f"Set OCIR_AUTH_METHOD={WORKLOAD_IDENTITY} in its env, or take tokenAttributes out.",
        )
    if not wanted:
        return None
    if entry is None or entry.token_attributes is None:
        return steps.skipped(
            ATTRIBUTES, "no-config", "no config of the kubelet's names this program"
        )
    return steps.ok(ATTRIBUTES, tried, f"for the audience {entry.token_attributes.audience}")


def reach_cluster(settings: Settings, running: Kubelet | None) -> Step:
    """Find the cluster's endpoint, connect, and hold its certificate against the cluster's CA."""
    deadline = Deadline(_SECONDS)
    tried = "settings, the kubelet's kubeconfig and OKE's files for the API server and its CA"
    try:
        cluster = cluster_of(settings, deadline, running.argv if running else ())
        there = origin(cluster)
        tried = f"{there.scheme}://{there.netloc} ({cluster.source})"
        connection = Connection(there, lambda: context(cluster))
        connection.open(deadline)
        connection.close()
    except Failure as failure:
        return steps.broken(ROUTE, tried, WorkloadUnreachable(str(failure)))
    except TlsUntrusted as error:
        return steps.broken(ROUTE, tried, error, CA_HINT)
    except ProviderError as error:
        return steps.broken(ROUTE, tried, error)
    return steps.ok(ROUTE, tried, f"{there.netloc} answers, and is the cluster's")
