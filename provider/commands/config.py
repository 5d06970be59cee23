"""The ``config`` command: write a CredentialProviderConfig, or validate one."""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence

import click

from provider.commands.kubelet_config import (
    PROVIDER_NAME,
    ConfigError,
    Merged,
    TokenAttributes,
    entry_json,
    file_for_entry,
    find_entry,
    merge_entry,
    parse_version,
    render,
)
from provider.errors import CannotMerge, ConfigUnreadable, ProviderError
from provider.net.deadline import Deadline
from provider.net.hostname import parse_host_pattern
from provider.ocir.exchange import instance_region
from provider.ocir.hosts import REALM_DOMAINS
from provider.settings import WORKLOAD_IDENTITY

ALL = "all"
# The variables of Oracle's Go provider. They are the defaults, written for readers of the config.
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
# The nodes need permission to request tokens for this audience. For kubectl apply -f:
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
# And each service account needs an OCI policy:
#
#   Allow any-user to read repos in compartment <name> where all {{
#     request.principal.type = 'workload',
#     request.principal.cluster_id = '<OCID of the cluster>',
#     request.principal.namespace = '<namespace>',
#     request.principal.service_account = '<service account>' }}
#
# Experimental: it is not verified that OCIR accepts workload identities.
"""
# Outside of OCI nothing answers, and the user waits.
_METADATA_SECONDS = 3.0


def write(
    realm: str | None,
    hosts: Sequence[str],
    as_json: bool,
    audience: str | None = None,
    kubelet_version: str | None = None,
) -> str:
    """The config as text. ``audience``: for workload identity.

    Raises click.BadParameter for an invalid realm, host, audience or version.
    """
    for host in hosts:
        if parse_host_pattern(host) is None:
            raise click.BadParameter(
                f"{host!r} is not a host name (a * can replace each label except the last two)",
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
        return text + workload_note(audience)
    import yaml

    return json.dumps(yaml.safe_load(text), indent=2) + "\n"


def workload_note(audience: str | None) -> str:
    """What workload identity needs beside the config, as comments; "" without an audience."""
    return _WORKLOAD_NOTE.format(audience=audience) if audience else ""


def _token_attributes(audience: str, kubelet_version: str | None) -> TokenAttributes:
    """The token attributes for this kubelet version.

    With each cacheType the kubelet caches credentials per service account and uid. All pods of an
    account can share its registry token, so ServiceAccount is enough.
    """
    version = _version(kubelet_version)
    if version < (1, 33):
        raise click.BadParameter(
            "kubelets older than 1.33 send no service-account tokens",
            param_hint="--kubelet-version",
        )
    if not re.fullmatch(r"[!-~]+", audience) or set(audience) & {'"', "\\"}:
        raise click.BadParameter(
            f"{audience!r} is not an audience", param_hint="--workload-identity"
        )
    return TokenAttributes(audience, cache_type="ServiceAccount" if version > (1, 33) else "")


def _version(kubelet_version: str | None) -> tuple[int, int]:
    try:
        return parse_version(kubelet_version)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--kubelet-version") from error


def _realm_domains(realm: str | None) -> tuple[str, ...]:
    """The realm's domain, by default the instance's; () for all realms."""
    if realm == ALL:
        return ()
    if realm is not None:
        domain = REALM_DOMAINS.get(realm.lower())
        if domain is None:
            known = ", ".join(REALM_DOMAINS)
            raise click.BadParameter(
                f"{realm!r} is not one of {known}, {ALL}; for a dedicated region use --host",
                param_hint="--realm",
            )
        return (domain,)
    try:
        return (instance_region(Deadline(_METADATA_SECONDS)).realm_domain,)
    except ProviderError:
        return ()


def merge(path: str, ours: str, kubelet_version: str | None) -> tuple[str, Merged]:
    """Merge the provider of the config ``ours`` into the config at ``path`` ("-": standard input).

    Returns the file that has the entry then, and its content. Raises CannotMerge if the kubelet rejects
    the config before or after, or if the edit would be a guess.
    """
    from provider.commands.node.files import findings_of, read_config, read_standard_input

    files = read_standard_input() if path == "-" else read_config(path)
    _version(kubelet_version)

    def require_valid(texts: Mapping[str, str]) -> None:
        findings = findings_of(dataclasses.replace(files, texts=texts), kubelet_version)
        if fatal := [finding for finding in findings if finding.severity == "fatal"]:
            raise ConfigError(fatal)

    try:
        if files.error:
            raise ValueError(files.error)
        require_valid(files.texts)
        name = file_for_entry(files.texts, files.texts) if files.directory else path
        text = files.texts.get(name)
        merged = Merged(ours, added=True) if text is None else merge_entry(text, ours)
        require_valid({**files.texts, name: merged.text})
    except ValueError as error:
        raise CannotMerge(f"{path}: {error}", paste(ours)) from error
    return (os.path.join(path, name) if files.directory else path), merged


def paste(ours: str) -> str:
    """The hint for a config that cannot be merged: the entry to add by hand."""
    return f"Add this to the config's providers (YAML: after a dash): {entry_json(ours)}"


def kept_entry(path: str, merged: Merged) -> str:
    """Say why the config at ``path`` was not changed."""
    entry = find_entry(merged.text)
    text = f"{path}: unchanged, because it has an entry {entry.name if entry else PROVIDER_NAME}"
    if merged.differences:
        text += f", with other values: {'; '.join(merged.differences)}"
    return text


def judge(path: str, bin_dir: str | None, kubelet_version: str | None, as_json: bool) -> int:
    """Validate the config at ``path`` ("-": standard input), print the result, return the exit code.

    ``bin_dir`` and ``kubelet_version`` are this node's by default. Raises ConfigUnreadable.
    """
    from provider.commands.check.validate import default_bin_dir, judge_files
    from provider.commands.node.files import read_config, read_standard_input
    from provider.commands.node.processes import find_kubelets

    files = read_standard_input() if path == "-" else read_config(path)
    if files.error:
        hint = "Run the command as root." if files.denied else None
        raise ConfigUnreadable(f"{path}: {files.error}", hint)
    running = find_kubelets(ask_version=True).kubelet
    bin_dir = bin_dir or default_bin_dir(running)
    version = kubelet_version or (running.version if running else None)
    try:
        findings = judge_files(files, bin_dir, version)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--kubelet-version") from error
    severities = {finding.severity for finding in findings}
    refused, works = "fatal" in severities, not severities & {"fatal", "error"}
    if as_json:
        content = {
            "path": path,
            "bin_dir": bin_dir,
            "accepted": not refused,
            "holds": works,
            "findings": [dataclasses.asdict(finding) for finding in findings],
        }
        click.echo(json.dumps(content, indent=2))
        return int(not works)
    for finding in findings:
        click.echo(f"{finding.severity}: {finding}")
        if finding.hint:
            click.echo(f"  {finding.hint}")
    if bin_dir is None:
        click.echo("not checked: the programs, because this machine has no kubelet. Use --bin-dir")
    verdict = "rejects this config and does not start" if refused else "accepts this config"
    but = "" if works or refused else ", but pulls from OCIR fail with it"
    click.echo(f"{path}: the kubelet {verdict}{but}")
    return int(not works)
