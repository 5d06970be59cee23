"""``config --validate``: would the kubelet start with this config, and would pulls work with it?"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

from provider.auth.oci_files import user_profile
from provider.auth.sdk_principals import user_principal
from provider.commands.check import workload
from provider.commands.check.entry import misspelt
from provider.commands.kubelet_config import (
    ALIAS,
    PROVIDER_NAME,
    ConfigError,
    CredentialProvider,
    Finding,
    load,
    may_match_ocir,
    validate,
    validate_directory,
)
from provider.commands.kubelet_config.model import PROVIDER_API_VERSION, Severity
from provider.commands.node import files as node
from provider.commands.node.installed import find_installed
from provider.commands.node.processes import Kubelet
from provider.errors import BadSettings, ProviderError
from provider.net.tls import proxy_for, tls_context
from provider.ocir.exchange import registry_origin
from provider.plugin.arguments import kubelet_call
from provider.settings import (
    USER_PRINCIPAL,
    settings_from_environment,
    settings_from_file,
)

_NAMES: Final = (PROVIDER_NAME, ALIAS)
_CUTOFF: Final = 0.85
_SOME_REGISTRY: Final = "fra.ocir.io"


def default_bin_dir(running: Kubelet | None) -> str | None:
    """The bin-dir of the running kubelet, else that of ``install``, else the usual one on a node.

    None on a machine that is no node.
    """
    if running and (flag := running.flag(node.BIN_DIR_FLAG)):
        return flag
    if installed := find_installed():
        return installed.bin_dir
    return node.USUAL_BIN_DIR if node.is_a_node() else None


def judge_files(
    files: node.ConfigFiles, bin_dir: str | None, kubelet_version: str | None
) -> list[Finding]:
    """All that keeps the kubelet from starting, or pulls from working.

    ``bin_dir`` None: the config is for another machine, so the files that it names are not judged.
    Raises ValueError for a version that cannot be read.
    """
    if files.directory:
        found = validate_directory(files.texts, kubelet_version=kubelet_version)
    else:
        found = validate(files.texts[files.path], kubelet_version=kubelet_version)
    try:
        providers = {
            f"{file}: providers[{index}]" if files.directory else f"providers[{index}]": provider
            for file, text in sorted(files.texts.items())
            for index, provider in enumerate(load(text).providers)
        }
    except ConfigError:
        return found
    for path, provider in providers.items():
        found += _judge_program(f"{path}.name", provider.name, bin_dir)
    ours = {path: each for path, each in providers.items() if _is_ours(each.name, bin_dir)}
    for path, entry in ours.items():
        found += _judge_entry(path, entry, here=bin_dir is not None)
    if not ours:
        names = ", ".join(provider.name for provider in providers.values()) or "none"
        hint = f"write name: {PROVIDER_NAME}, or add the entry that `{PROVIDER_NAME} config` prints"
        found.append(
            _error("providers", f"no provider is this program; the names are: {names}", hint)
        )
    return found


def _is_ours(name: str, bin_dir: str | None) -> bool:
    return name in _NAMES or (bin_dir is not None and node.is_ours(name, bin_dir))


def _judge_program(path: str, name: str, bin_dir: str | None) -> Iterator[Finding]:
    """Is the program there? The kubelet exits over one that is missing or has no run bit."""
    # The kubelet's own rules refuse a name that is no file's.
    if bin_dir is None or not name or "/" in name or name in (".", ".."):
        return
    (program,) = node.look_at(bin_dir, [name])
    if program.denied:
        yield _error(path, f"{program.path} is not visible to this user", "run it as root")
    elif program.state == "not executable":
        yield Finding("fatal", path, f"{program.path} is not executable", "set its mode to 755")
    elif program.state != "ok":
        near = get_close_matches(name, _NAMES, n=1, cutoff=_CUTOFF)
        hint = "the name is that of the program's file in the bin-dir, exactly"
        if near and name not in _NAMES:
            hint = f"did you mean {near[0]}?"
        yield Finding("fatal", path, f"{program.path}: {program.state}", hint)
    elif program.replaceable:
        message = f"others than root can replace {program.path}: {program.replaceable}"
        yield Finding("warning", path, message, "who can write there owns the node")


def _judge_entry(path: str, entry: CredentialProvider, here: bool) -> Iterator[Finding]:
    """Would calls of this program work? ``here``: the files that it names are on this machine."""
    if entry.api_version and entry.api_version != PROVIDER_API_VERSION:
        hint = f"write apiVersion: {PROVIDER_API_VERSION}"
        yield _error(f"{path}.apiVersion", "this program answers v1 requests alone", hint)
    for index, (name, _) in enumerate(entry.env):
        for near in misspelt([name]).values():
            where = f"{path}.env[{index}].name"
            yield _error(where, f"{name} is not a setting", f"did you mean {near}?")
    call = kubelet_call(entry.args)
    if call is None:
        message = "with these args the program is a command and answers no request"
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
        yield _error(
            f"{path}.args" if call.settings_file else f"{path}.env", error.message, error.hint
        )
        return
    attributes = workload.judge_attributes(entry, settings)
    if attributes and attributes.status in ("failed", "warning"):
        severity: Severity = "error" if attributes.status == "failed" else "warning"
        hint = " ".join(attributes.advice)
        yield Finding(severity, f"{path}.tokenAttributes", attributes.came, hint)
    if not any(may_match_ocir(each, settings.ocir_hosts) for each in entry.match_images):
        hint = f"add those that `{PROVIDER_NAME} config` prints"
        yield _error(f"{path}.matchImages", "no pattern matches a registry of OCIR's", hint)


def _wrong_values(path: str, entry: CredentialProvider) -> Iterator[Finding]:
    """The variables whose values are not allowed, each by itself."""
    for index, (name, value) in enumerate(entry.env):
        try:
            settings_from_environment({name: value})
        except BadSettings as error:
            yield _error(f"{path}.env[{index}].value", error.message, error.hint)


def _error(path: str, message: str, hint: str) -> Finding:
    return Finding("error", path, message, hint)
