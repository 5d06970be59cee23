"""The CredentialProviderConfig that ``install`` writes, updates, merges into or keeps."""

import os
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from provider.commands import config as config_command
from provider.commands.install.files import add_name, make_directories, write_file
from provider.commands.install.paths import InstallOptions, InstallPaths, backup_of
from provider.commands.install.record import ConfigOptions, Record
from provider.commands.kubelet_config import (
    ALIAS,
    PROVIDER_NAME,
    ConfigError,
    Finding,
    find_entry,
    load,
    merge_entry,
)
from provider.commands.node.files import (
    NOT_A_PROGRAM,
    ConfigFiles,
    findings_of,
    look_at,
    read_config,
)
from provider.commands.node.processes import find_kubelets, kubelet_version
from provider.errors import CannotInstall, CannotMerge
from provider.root_only import find_program, who_can_replace


@dataclass(frozen=True, slots=True)
class ConfigPlan:
    """The text to write at ``path``, or None to keep the existing config; and notes to print.

    ``options`` are those of the text. ``merged``: the text is the existing config with this program's
    entry. ``backup``: the second name that the existing file gets.
    """

    path: Path
    options: ConfigOptions
    text: str | None = None
    notes: tuple[str, ...] = ()
    merged: bool = False
    backup: Path | None = None

    @property
    def done(self) -> str:
        """What is printed after the path."""
        if not self.merged:
            return "written"
        backup = f" (backup: {self.backup.name})" if self.backup else ""
        return f"merged with the entry of {PROVIDER_NAME}{backup}"


def _options(path: Path, record: Record, options: InstallOptions) -> ConfigOptions:
    """The options of the config: those of this run, else those of the run before."""
    if options.realm is None and not options.hosts:
        return dict(record.options).get(str(path), ConfigOptions())
    return ConfigOptions(options.realm or config_command.ALL, options.hosts)


def plan_config(
    paths: InstallPaths,
    record: Record,
    options: InstallOptions,
    others: Container[str],
) -> ConfigPlan:
    """Plan it. ``others`` are the names in the bin dir that stay another program's.

    Raises CannotInstall if the kubelet would not start with the resulting config, and CannotMerge.
    """
    plan = ConfigPlan(paths.config, _options(paths.config, record, options))
    default = config_command.write(*plan.options, as_json=False)
    try:
        # Bytes, because text mode converts newlines.
        present = paths.config.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        present = None
    if present is None or present == default:
        _require_valid(paths, default, others)
        return plan if present else replace(plan, text=default)
    digest = sha256(present.encode()).hexdigest()
    if dict(record.configs).get(str(paths.config)) == digest:
        _require_valid(paths, default, others)
        return replace(plan, text=default)
    is_merged = str(paths.config) in dict(record.merged) and _has_entry(present)
    if is_merged or paths.merge is not None:
        return _plan_merge(plan, paths, record, default, others)
    kept = (
        f"{paths.config}: kept, because install did not write it."
        f" To print the default config: {PROVIDER_NAME} config"
    )
    return replace(plan, notes=(kept, *_require_valid(paths, present, others)))


def plan_updates(config: Path, record: Record, options: InstallOptions) -> Iterator[ConfigPlan]:
    """Plan the other configs in which earlier runs wrote something. What was changed since is kept."""
    configs, merged = dict(record.configs), dict(record.merged)
    for name in sorted({*configs, *merged} - {str(config)}):
        if who_can_replace(name, os.geteuid()):
            continue
        text = read_config(name).texts.get(name)
        if text is None:
            continue  # it is gone
        plan = ConfigPlan(Path(name), _options(Path(name), record, options))
        default = config_command.write(*plan.options, as_json=False)
        if sha256(text.encode()).hexdigest() == configs.get(name):
            if text != default:
                yield replace(plan, text=default)
        elif name in merged and _has_entry(text):
            result = merge_entry(text, default, merged[name])
            if result.text != text:
                yield replace(plan, text=result.text, merged=True)
            elif result.differences:
                yield replace(plan, notes=(config_command.kept_entry(name, result),))


def _has_entry(text: str) -> bool:
    try:
        return find_entry(text) is not None
    except ConfigError:
        return False


def _plan_merge(
    plan: ConfigPlan, paths: InstallPaths, record: Record, default: str, others: Container[str]
) -> ConfigPlan:
    path = str(paths.config)
    files = read_config(path)
    try:
        if files.error:
            raise ValueError(files.error)
        text = files.texts[path]
        _require_valid(paths, text, others)
        merged = merge_entry(text, default, dict(record.merged).get(path, ""))
    except CannotInstall as error:
        hint = f"{error.hint} {config_command.paste(default)}"
        raise CannotMerge(error.message, hint) from error
    except ValueError as error:
        raise CannotMerge(f"{path}: {error}", config_command.paste(default)) from error
    warnings = _require_valid(paths, merged.text, others)
    if merged.text == text:
        return replace(plan, notes=(config_command.kept_entry(path, merged), *warnings))
    backup = backup_of(paths.config) if merged.added else None
    return replace(plan, text=merged.text, notes=tuple(warnings), merged=True, backup=backup)


def write_config(plan: ConfigPlan) -> None:
    """Write the config. Raises OSError, CannotInstall."""
    assert plan.text is not None
    make_directories(plan.path.parent)
    if plan.backup:
        add_name(plan.path, plan.backup)
    write_file(plan.path, plan.text, plan.path.stat() if plan.merged else None)


def _require_valid(paths: InstallPaths, text: str, others: Container[str]) -> list[str]:
    """Raise CannotInstall if the kubelet would not start with this config. Returns warnings."""
    files = ConfigFiles(str(paths.config), {str(paths.config): text})
    if paths.directory:
        files = read_config(str(paths.config_dir))
        files = replace(files, texts={**files.texts, paths.config_name: text})
    findings: list[Finding] = []
    for version in sorted(_kubelet_versions(), key=str):
        findings += [f for f in findings_of(files, version) if f not in findings]
    for finding in findings:
        if finding.severity == "fatal":
            raise CannotInstall(
                f"the kubelet would not start with {paths.config}:"
                f" {finding.path}: {finding.message}",
                finding.hint or "Fix it or move it, and run install again.",
            )
    names = [provider.name for each in files.texts.values() for provider in load(each).providers]
    ours = {PROVIDER_NAME, ALIAS} - {name for name in names if name in others}
    for name in names:
        (program,) = look_at(str(paths.bin_dir), [name])
        if name not in ours and program.state not in ("ok", NOT_A_PROGRAM):
            raise CannotInstall(
                f"the kubelet would not start with {paths.config}: it names {name}, and {program.path} is"
                f" {program.state}",
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
