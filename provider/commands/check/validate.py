"""Judge a config for ``config --validate``: does the kubelet start, and do pulls from OCIR work?"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from provider.auth.oci_files import user_profile
from provider.auth.sdk_principals import user_principal
from provider.commands.check import workload
from provider.commands.check.kubelet import NUL_MESSAGE
from provider.commands.check.misspelled import misspelled
from provider.commands.kubelet_config import (
    ALIAS,
    PROVIDER_NAME,
    ConfigError,
    CredentialProvider,
    Finding,
    fields_with_nul,
    load,
    may_match_ocir,
)
from provider.commands.kubelet_config.model import PROVIDER_API_VERSION, Severity
from provider.commands.node import files as node
from provider.commands.node.installed import find_installed
from provider.commands.node.processes import Kubelet
from provider.errors import BadSettings, ProviderError
from provider.net.tls import proxy_for, tls_context
from provider.ocir.exchange import registry_origin
from provider.plugin.arguments import kubelet_call
from provider.settings import USER_PRINCIPAL, settings_from_environment, settings_from_file

_NAMES: Final = (PROVIDER_NAME, ALIAS)
_CUTOFF: Final = 0.85
_SOME_REGISTRY: Final = "fra.ocir.io"


def default_bin_dir(running: Kubelet | None) -> str | None:
    """The bin dir of the running kubelet, of ``install``, or the default one.

    None on a machine without a kubelet.
    """
    if running and (flag := running.flag(node.BIN_DIR_FLAG)):
        return flag
    if installed := find_installed():
        return installed.bin_dir
    return node.USUAL_BIN_DIR if node.has_kubelet() else None


def judge_files(
    files: node.ConfigFiles, bin_dir: str | None, kubelet_version: str | None
) -> list[Finding]:
    """Everything that prevents the kubelet's start or pulls from OCIR.

    ``bin_dir`` None: the config is for another machine, so the files that it names are not checked.
    Raises ValueError for a malformed version.
    """
    found = node.findings_of(files, kubelet_version)
    try:
        providers = {
            f"{file}: providers[{index}]" if files.directory else f"providers[{index}]": provider
            for file, text in sorted(files.texts.items())
            for index, provider in enumerate(load(text).providers)
        }
    except ConfigError:
        return found
    ours = {path: each for path, each in providers.items() if _is_ours(each.name, bin_dir)}
    for path, provider in providers.items():
        # An entry of another program does not affect pulls from OCIR.
        severity: Severity = "error" if path in ours else "warning"
        found += _judge_program(f"{path}.name", provider.name, bin_dir, severity)
        found += [
            Finding(severity, f"{path}.{field}", NUL_MESSAGE, "remove the NUL character")
            for field in fields_with_nul(provider)
        ]
    for path, entry in ours.items():
        if not fields_with_nul(entry):
            found += _judge_entry(path, entry, here=bin_dir is not None)
    if not ours:
        names = ", ".join(provider.name for provider in providers.values()) or "none"
        hint = f"write name: {PROVIDER_NAME}, or add the entry that `{PROVIDER_NAME} config` prints"
        found.append(_error("providers", f"no entry is for this program; the names: {names}", hint))
    return found


def _is_ours(name: str, bin_dir: str | None) -> bool:
    if bin_dir is None or not _is_file_name(name):
        return name in _NAMES
    return node.is_ours(name, bin_dir)


def _is_file_name(name: str) -> bool:
    return name not in ("", ".", "..") and "/" not in name and "\0" not in name


def _judge_program(
    path: str, name: str, bin_dir: str | None, severity: Severity
) -> Iterator[Finding]:
    """Find out whether the kubelet can run the program. It exits if it finds no executable file."""
    if bin_dir is None or not _is_file_name(name):  # the kubelet's own rules reject the name
        return
    (program,) = node.look_at(bin_dir, [name])
    if program.denied:
        yield _error(path, f"this user cannot see {program.path}", "run it as root")
    elif program.state == node.NOT_EXECUTABLE:
        yield Finding("fatal", path, f"{program.path} is not executable", "set its mode to 755")
    elif program.state == node.NOT_A_PROGRAM:
        message = f"{program.path} is {program.state}: the kubelet cannot run it"
        yield Finding(severity, path, message, "install the program again")
    elif program.state != "ok":
        similar = get_close_matches(name, _NAMES, n=1, cutoff=_CUTOFF)
        hint = "write the exact name of the program's file in the bin dir"
        if similar and name not in _NAMES:
            hint = f"did you mean {similar[0]}?"
        yield Finding("fatal", path, f"{program.path}: {program.state}", hint)
    elif program.replaceable:
        message = f"users other than root can replace {program.path}: {program.replaceable}"
        yield Finding("warning", path, message, "a user who can write there controls the node")


def _judge_entry(path: str, entry: CredentialProvider, here: bool) -> Iterator[Finding]:
    """Find out whether calls of this program work. ``here``: the entry is for this machine."""
    if entry.api_version and entry.api_version != PROVIDER_API_VERSION:
        hint = f"write apiVersion: {PROVIDER_API_VERSION}"
        yield _error(f"{path}.apiVersion", "this program answers only v1 requests", hint)
    for index, (name, _) in enumerate(entry.env):
        for similar in misspelled([name]).values():
            where = f"{path}.env[{index}].name"
            yield _error(where, f"{name} is not a setting", f"did you mean {similar}?")
    call = kubelet_call(entry.args)
    if call is None:
        message = "with these args the program runs a command and answers no request"
        yield _error(f"{path}.args", message, "remove them, or write args: [--config, FILE]")
        return
    if call.settings_file and not here:
        return
    wrong = [] if call.settings_file else list(_wrong_values(path, entry))
    yield from wrong
    if wrong:
        return
    environ = dict(entry.env)
    try:
        if call.settings_file:
            settings = settings_from_file(call.settings_file)
        else:
            settings = settings_from_environment(environ)
        registry_origin(_SOME_REGISTRY, settings)
        proxy_for(_SOME_REGISTRY, environ)
        if here:
            tls_context(environ)
        if here and settings.ocir_auth_method == USER_PRINCIPAL:
            user_principal(user_profile(settings.oci_config_file, settings.oci_profile))
    except ProviderError as error:
        where = f"{path}.args" if call.settings_file else f"{path}.env"
        yield _error(where, error.message, error.hint)
        return
    attributes = workload.judge_attributes(entry, settings)
    if attributes and attributes.status in ("failed", "warning"):
        severity: Severity = "error" if attributes.status == "failed" else "warning"
        hint = " ".join(attributes.advice)
        yield Finding(severity, f"{path}.tokenAttributes", attributes.result, hint)
    if not any(may_match_ocir(each, settings.ocir_hosts) for each in entry.match_images):
        hint = f"add the patterns that `{PROVIDER_NAME} config` prints"
        yield _error(f"{path}.matchImages", "no pattern matches a registry of OCIR", hint)


def _wrong_values(path: str, entry: CredentialProvider) -> Iterator[Finding]:
    """The variables with invalid values."""
    for index, (name, value) in enumerate(entry.env):
        try:
            settings_from_environment({name: value})
        except BadSettings as error:
            yield _error(f"{path}.env[{index}].value", error.message, error.hint)


def _error(path: str, message: str, hint: str) -> Finding:
    return Finding("error", path, message, hint)
