"""The CredentialProviderConfig that ``install`` writes, updates or keeps."""

import os
from collections.abc import Container
from hashlib import sha256

from provider.commands import config as config_command
from provider.commands.install.files import make_directories, write_file
from provider.commands.install.paths import InstallOptions, InstallPaths
from provider.commands.install.record import ConfigOptions, Record
from provider.commands.kubelet_config import ALIAS, PROVIDER_NAME, load, validate
from provider.commands.node.processes import find_kubelets, kubelet_version
from provider.errors import CannotInstall
from provider.root_only import find_program


def config_options(paths: InstallPaths, record: Record, options: InstallOptions) -> ConfigOptions:
    """The options of the config: those of this run, else those of the run before."""
    if options.realm is None and not options.hosts:
        return dict(record.options).get(str(paths.config), ConfigOptions())
    return ConfigOptions(options.realm or config_command.ALL, options.hosts)


def plan_config(
    paths: InstallPaths,
    record: Record,
    options: ConfigOptions,
    others: Container[str],
) -> tuple[str | None, list[str]]:
    """The text to write, or None to keep the existing config; and notes to print.

    ``others`` are the names in the bin dir that stay another program's. Raises CannotInstall if the
    kubelet would not start with the resulting config.
    """
    default = config_command.write(options.realm, options.hosts, as_json=False)
    try:
        # Bytes, because text mode converts newlines.
        present = paths.config.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        present = None
    if present is None or present == default:
        _require_valid(paths, default, others)
        return (None if present else default), []
    digest = sha256(present.encode()).hexdigest()
    if dict(record.configs).get(str(paths.config)) == digest:
        _require_valid(paths, default, others)
        return default, []
    kept = (
        f"{paths.config}: kept, because install did not write it."
        f" To print the default config: {PROVIDER_NAME} config"
    )
    return None, [kept, *_require_valid(paths, present, others)]


def write_config(paths: InstallPaths, text: str) -> None:
    """Write the config. Raises OSError, CannotInstall."""
    make_directories(paths.config_dir)
    write_file(paths.config, text)


def _require_valid(paths: InstallPaths, text: str, others: Container[str]) -> list[str]:
    """Raise CannotInstall if the kubelet would not start with this config. Returns warnings."""
    findings = []
    for version in sorted(_kubelet_versions(), key=str):
        findings += [f for f in validate(text, kubelet_version=version) if f not in findings]
    for finding in findings:
        if finding.severity == "fatal":
            raise CannotInstall(
                f"the kubelet would not start with {paths.config}:"
                f" {finding.path}: {finding.message}",
                finding.hint or "Fix it or move it, and run install again.",
            )
    names = [provider.name for provider in load(text).providers]
    ours = {PROVIDER_NAME, ALIAS} - {name for name in names if name in others}
    for name in names:
        if name not in ours and not os.access(paths.bin_dir / name, os.X_OK):
            raise CannotInstall(
                f"the kubelet would not start with {paths.config}: it names {name}, which is not in"
                f" {paths.bin_dir}",
                "Add that program, or remove its entry from the config. This program's name is"
                f" {PROVIDER_NAME}.",
            )
    warnings = [f"{paths.config}: {f.path}: {f.message}. {f.hint}".rstrip() for f in findings]
    if not ours & set(names) and ALIAS in names:
        warnings.append(
            f"{paths.config}: names {ALIAS}, which is Oracle's Go provider, so the kubelet does not call"
            " this program"
        )
    elif not ours & set(names):
        warnings.append(
            f"{paths.config}: names neither {PROVIDER_NAME} nor {ALIAS}, so the kubelet never calls"
            " this program"
        )
    return warnings


def _kubelet_versions() -> set[str | None]:
    """The versions of the running kubelets and of the one that starts next. {None}, which stands for the
    newest known version, if there is no kubelet.
    """
    versions = {kubelet.version for kubelet in find_kubelets(ask_version=True).proven}
    if program := find_program("kubelet"):
        versions.add(kubelet_version(program))
    return versions - {None} or {None}
