"""The ``config`` command: writes a CredentialProviderConfig for this provider, or judges one."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

import click

from provider.deadline import Deadline
from provider.errors import BadRequest, ProviderError
from provider.exchange import instance_realm_domain
from provider.kubelet_config import Finding, render, validate, validate_directory
from provider.realm import REALM_DOMAINS, parse_host_pattern

ALL = "all"
# Those of Oracle's Go provider, in the order of its example; a kubelet shows them to who looks.
ENVIRONMENT = {
    "REGISTRY_TOKEN_PATH": "/20180419/docker/token",
    "DEFAULT_USER": "BEARER_TOKEN",
    "REGISTRY_PROTOCOL": "https",
    "OCIR_AUTH_METHOD": "INSTANCE_PRINCIPAL",
    "TOKEN_VALIDATION": "enabled",
}
# Off OCI nobody answers, and a person waits.
_METADATA_SECONDS = 3.0


def write(realm: str | None, hosts: Sequence[str], as_json: bool) -> str:
    """The config as text. Raises click.BadParameter for a realm or a host that is none."""
    for host in hosts:
        if parse_host_pattern(host) is None:
            raise click.BadParameter(
                f"{host!r} is no host name (a * stands for a whole label, but not for the last two)",
                param_hint="--host",
            )
    environment = {**ENVIRONMENT, **({"OCIR_HOSTS": ",".join(hosts)} if hosts else {})}
    text = render(realm_domains=_realm_domains(realm), hosts=hosts, env=environment)
    if not as_json:
        return text
    import yaml

    return json.dumps(yaml.safe_load(text), indent=2) + "\n"


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
        return (instance_realm_domain(Deadline(_METADATA_SECONDS)),)
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
