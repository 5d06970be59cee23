"""The ``config`` command: writes a CredentialProviderConfig for this provider, or judges one."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence

import click

from provider.deadline import Deadline
from provider.errors import BadRequest, ProviderError
from provider.exchange import instance_region
from provider.kubelet_config import (
    Finding,
    TokenAttributes,
    parse_version,
    render,
    validate,
    validate_directory,
)
from provider.realm import REALM_DOMAINS, parse_host_pattern
from provider.settings import WORKLOAD_IDENTITY

ALL = "all"
# Those of Oracle's Go provider, in the order of its example; a kubelet shows them to who looks.
ENVIRONMENT = {
    "REGISTRY_TOKEN_PATH": "/20180419/docker/token",
    "DEFAULT_USER": "BEARER_TOKEN",
    "REGISTRY_PROTOCOL": "https",
    "OCIR_AUTH_METHOD": "INSTANCE_PRINCIPAL",
    "TOKEN_VALIDATION": "enabled",
}
# docs.oracle.com, "Granting Workloads Access to OCI Resources"; kubernetes.io, "Service account token
# audience restriction".
_WORKLOAD_NOTE = """
# The nodes must be allowed to ask for tokens of this audience. For kubectl apply -f:
#
#   apiVersion: rbac.authorization.k8s.io/v1
#   kind: ClusterRole
#   metadata:
#     name: oke-credential-provider
#   rules:
#     - apiGroups: [""]
#       resources: ["{audience}"]
#       verbs: ["request-serviceaccounts-token-audience"]
#   ---
#   apiVersion: rbac.authorization.k8s.io/v1
#   kind: ClusterRoleBinding
#   metadata:
#     name: oke-credential-provider
#   roleRef:
#     apiGroup: rbac.authorization.k8s.io
#     kind: ClusterRole
#     name: oke-credential-provider
#   subjects:
#     - apiGroup: rbac.authorization.k8s.io
#       kind: Group
#       name: system:nodes
#
# And OCI must be told what each service account may read, by a policy:
#
#   Allow any-user to read repos in compartment <name> where all {{
#     request.principal.type = 'workload',
#     request.principal.cluster_id = '<OCID of the cluster>',
#     request.principal.namespace = '<namespace>',
#     request.principal.service_account = '<service account>' }}
#
# Whether OCIR takes workload identities is not verified anywhere: this is experimental.
"""
# Off OCI nobody answers, and a person waits.
_METADATA_SECONDS = 3.0


def write(
    realm: str | None,
    hosts: Sequence[str],
    as_json: bool,
    audience: str | None = None,
    kubelet_version: str | None = None,
) -> str:
    """The config as text; with ``audience`` for workload identity. Raises click.BadParameter for a
    realm, host, audience or version that is none.
    """
    for host in hosts:
        if parse_host_pattern(host) is None:
            raise click.BadParameter(
                f"{host!r} is no host name (a * stands for a whole label, but not for the last two)",
                param_hint="--host",
            )
    environment = {**ENVIRONMENT, **({"OCIR_HOSTS": ",".join(hosts)} if hosts else {})}
    token = None
    if audience is not None:
        token = _token_attributes(audience, kubelet_version)
        environment |= {"OCIR_AUTH_METHOD": WORKLOAD_IDENTITY}
    text = render(
        realm_domains=_realm_domains(realm), hosts=hosts, env=environment, token_attributes=token
    )
    if not as_json:
        return text + (_WORKLOAD_NOTE.format(audience=audience) if audience else "")
    import yaml

    return json.dumps(yaml.safe_load(text), indent=2) + "\n"


def _token_attributes(audience: str, kubelet_version: str | None) -> TokenAttributes:
    """What the kubelet is to send: its cache keeps accounts apart by uid with either cacheType, and a
    registry token is its account's, so that the pods of one account may share it.
    """
    try:
        version = parse_version(kubelet_version)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--kubelet-version") from error
    if version < (1, 33):
        raise click.BadParameter(
            "kubelets send service-account tokens since 1.33", param_hint="--kubelet-version"
        )
    if not re.fullmatch(r"[!-~]+", audience) or set(audience) & {'"', "\\"}:
        raise click.BadParameter(f"{audience!r} is no audience", param_hint="--workload-identity")
    return TokenAttributes(audience, cache_type="ServiceAccount" if version > (1, 33) else "")


def _realm_domains(realm: str | None) -> tuple[str, ...]:
    """The realm's domain; () for all realms."""
    if realm == ALL:
        return ()
    if realm is not None:
        domain = REALM_DOMAINS.get(realm.lower())
        if domain is None:
            known = ", ".join(REALM_DOMAINS)
            raise click.BadParameter(
                f"{realm!r} is none of {known}, {ALL}; for a dedicated region use --host",
                param_hint="--realm",
            )
        return (domain,)
    try:
        return (instance_region(Deadline(_METADATA_SECONDS)).realm_domain,)
    except ProviderError:
        return ()


def judge(path: str, kubelet_version: str | None, as_json: bool) -> int:
    """Print what the kubelet has against the config at ``path``. Returns the exit code."""
    try:
        findings = _findings(path, kubelet_version)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--kubelet-version") from error
    refused = any(finding.severity == "fatal" for finding in findings)
    if as_json:
        content = {
            "path": path,
            "accepted": not refused,
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        click.echo(json.dumps(content, indent=2))
        return int(refused)
    for finding in findings:
        field = f"{finding.path}: " if finding.path else ""
        click.echo(f"{finding.severity}: {field}{finding.message}")
        if finding.hint:
            click.echo(f"  {finding.hint}")
    verdict = "refuses this config, and does not start" if refused else "takes this config"
    click.echo(f"{path}: the kubelet {verdict}")
    return int(refused)


def _findings(path: str, kubelet_version: str | None) -> list[Finding]:
    try:
        if not os.path.isdir(path):
            return validate(_text(path), kubelet_version=kubelet_version)
        names = sorted(entry.name for entry in os.scandir(path) if entry.is_file())
        files: Mapping[str, str] = {name: _text(os.path.join(path, name)) for name in names}
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}", "Name a file.") from error
    return validate_directory(files, kubelet_version=kubelet_version)


def _text(path: str) -> str:
    with open(path, "rb") as file:
        return file.read().decode("utf-8", "replace")
