"""The ``install`` command: everything is tested before the switch, and the switch is one rename."""

import os
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from provider import __version__
from provider.commands import config as config_command
from provider.commands.install import versions
from provider.commands.install.changes import Change, Changed, apply, locked, reported
from provider.commands.install.config_file import (
    ConfigPlan,
    plan_config,
    plan_updates,
    write_config,
)
from provider.commands.install.files import (
    add_name,
    is_link_to,
    link,
    make_directories,
    missing_directories,
    refuse_noexec,
    refuse_replaceable,
    restore_labels,
)
from provider.commands.install.layout import EXECUTABLE, is_intact
from provider.commands.install.merged_config import find_config
from provider.commands.install.paths import (
    BACKUP_SUFFIX,
    InstallOptions,
    InstallPaths,
    is_copy,
    is_go_provider,
    is_ours,
    version_of_link,
)
from provider.commands.install.record import (
    Record,
    read_record,
    record_path,
    write_record,
)
from provider.commands.kubelet_config import ALIAS, PROVIDER_NAME, entry_digest
from provider.commands.outcome import Say, inventoried
from provider.errors import CannotInstall, NewerInstalled
from provider.frozen import folder


def install(paths: InstallPaths, options: InstallOptions, say: Say) -> Changed:
    """Install the running program and switch to it. A second run changes nothing.

    Raises CannotInstall, NewerInstalled, or Damaged if the running program is damaged, before the switch,
    and click.BadParameter for an invalid realm or host.
    """
    config_command.write(options.realm or config_command.ALL, options.hosts, as_json=False)
    act = partial(_install, paths, options, say)
    if options.dry_run:
        return act()
    return inventoried(act, "installed", partial(version_of_link, paths.link, paths.prefix), say)


def _install(paths: InstallPaths, options: InstallOptions, say: Say) -> Changed:
    running = folder()
    if running is None:
        raise CannotInstall(
            "only the standalone binary can be installed, and this is the source",
            "Download the binary of a release, or build it: make binary",
        )
    if not (paths.bin_dir.is_dir() or options.create_bin_dir):
        raise CannotInstall(
            f"--bin-dir {paths.bin_dir} is not a directory",
            "Give the kubelet's --image-credential-provider-bin-dir, or add --create-bin-dir.",
        )
    os.umask(0o022)  # every user can read the new files from the start
    with reported(paths.prefix):
        paths = find_config(paths)
        # This stays true: nobody else can create the paths that install has yet to create.
        directories = paths.prefix, paths.bin_dir, paths.config_dir
        refuse_replaceable(*directories, record_path(paths.prefix))
        refuse_noexec(paths.prefix)
    with reported(paths.prefix), locked(paths.prefix, options.dry_run) as created:
        current = version_of_link(paths.link, paths.prefix)
        notes = _judge_downgrade(current, options)
        others = _others(paths, options)
        record = read_record(paths.prefix)
        configs = [
            plan_config(paths, record, options, others),
            *plan_updates(paths.config, record, options),
        ]
        copy = versions.find_copy(paths.prefix, Path(running), current)
        if copy is not None:
            if not options.dry_run:
                restore_labels(copy)
            versions.self_test(copy / EXECUTABLE)
        target = copy or versions.free_name(paths.prefix)
        updated = _updated(paths, record, target, configs, created)
        changes = list(
            _changes(paths, record, updated, Path(running), copy, target, configs, others)
        )
        outcome = apply(changes, options.dry_run, say)
        if not changes:
            say(f"{__version__} is already installed; there is nothing to change")
        kept = [
            f"{paths.bin_dir / name}: kept, because it is Oracle's Go provider."
            f" To replace it: {PROVIDER_NAME} install --take-over"
            for name in others
        ]
        for note in [*notes, *kept, *(note for each in configs for note in each.notes)]:
            say(note)
        return outcome


def _changes(
    paths: InstallPaths,
    record: Record,
    updated: Record,
    running: Path,
    copy: Path | None,
    target: Path,
    configs: Sequence[ConfigPlan],
    others: Container[str],
) -> Iterator[Change]:
    """The changes in order. ``copy`` is an intact copy of the ``running`` program, if there is one;
    ``target`` is that copy or the directory to create.
    """
    if copy is None:
        unpack = partial(versions.unpack_and_test, paths.prefix, running, target)
        yield Change(target, "unpacked and tested", unpack)

    if updated != record:
        path = record_path(paths.prefix)
        yield Change(path, "written", partial(write_record, paths.prefix, updated))

    aliases = [path for path in paths.aliases if path.name not in others]
    links = {paths.link: str(target / EXECUTABLE), **dict.fromkeys(aliases, PROVIDER_NAME)}
    for path, to in links.items():
        backup = path.with_name(path.name + BACKUP_SUFFIX)
        # A copy of this program does not replace the backup of another program.
        is_needless = is_copy(path) and os.path.lexists(backup)
        if _is_in_the_way(path, paths.prefix) and not is_needless:
            done = f"renamed to {backup.name} and linked to {to}"
            yield Change(path, done, partial(_replace, path, to, backup))
        elif not is_link_to(path, to):
            yield Change(path, f"linked to {to}", partial(_link, path, to))

    for config in configs:
        if config.text is not None:
            yield Change(config.path, config.done, partial(write_config, config))

    # Other bin dirs may use other versions. The version before stays, for a rollback.
    bin_dirs = [Path(bin_dir) for bin_dir in updated.bin_dirs if bin_dir != str(paths.bin_dir)]
    linked = (version_of_link(bin_dir / PROVIDER_NAME, paths.prefix) for bin_dir in bin_dirs)
    for old in versions.unneeded(paths.prefix, {target.name, updated.previous, *linked}):
        yield Change(old, "removed", partial(versions.remove_if_possible, old))


def _updated(
    paths: InstallPaths,
    record: Record,
    target: Path,
    plans: Sequence[ConfigPlan],
    created: list[Path],
) -> Record:
    """The record after this run. ``created`` are the directories that it has created so far."""
    configs, merged, options = dict(record.configs), dict(record.merged), dict(record.options)
    created = [*created, *missing_directories(paths.bin_dir)]
    for plan in plans:
        if plan.text is None:
            continue
        path = str(plan.path)
        if plan.merged:
            merged[path] = entry_digest(plan.text)
        else:
            configs[path] = sha256(plan.text.encode()).hexdigest()
        options[path] = plan.options
        created += missing_directories(plan.path.parent)
    previous = record.previous
    current = version_of_link(paths.link, paths.prefix)
    if current and current != target.name and is_intact(paths.prefix / current):
        previous = current
    return replace(
        record,
        bin_dirs=tuple(sorted({*record.bin_dirs, str(paths.bin_dir)})),
        configs=tuple(sorted(configs.items())),
        merged=tuple(sorted(merged.items())),
        options=tuple(sorted(options.items())),
        folders=tuple(sorted({*record.folders, *map(str, created)})),
        previous="" if previous == target.name else previous,
    )


def _judge_downgrade(current: str | None, options: InstallOptions) -> list[str]:
    """Raise NewerInstalled if the version in use is newer and a downgrade was not asked for. Returns notes."""
    if current is None or not versions.is_older(__version__, current):
        return []
    if not options.allow_downgrade:
        raise NewerInstalled(
            f"{current} is active on this node, and this is the older {__version__}"
        )
    return [f"downgrade: {current} was active on this node, and this is the older {__version__}"]


def _others(paths: InstallPaths, options: InstallOptions) -> list[str]:
    """The names in the bin dir that stay another program's.

    Raises CannotInstall if a program has one of this program's names and cannot stay.
    """
    found = []
    for path in (paths.link, *paths.aliases):
        if not _is_in_the_way(path, paths.prefix) or is_copy(path):
            continue
        if not is_go_provider(path):
            raise CannotInstall(
                f"{path} exists and is neither this program nor Oracle's Go provider",
                "Move it, or choose another --bin-dir.",
            )
        if options.take_over:
            continue
        if path.name != ALIAS:
            raise CannotInstall(
                f"{path} is Oracle's Go provider",
                "To replace it, run install --take-over. uninstall restores it.",
            )
        found.append(path.name)
    return found


def _is_in_the_way(path: Path, prefix: Path) -> bool:
    return os.path.lexists(path) and not is_ours(path, prefix)


def _link(path: Path, to: str) -> None:
    make_directories(path.parent)
    link(path, to)


def _replace(path: Path, to: str, backup: Path) -> None:
    """Link ``path``, which is a program. The kubelet finds the old or the new program at each moment."""
    add_name(path, backup)
    link(path, to)
