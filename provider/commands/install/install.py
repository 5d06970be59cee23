"""The ``install`` command: everything is tested before the switch, and the switch is one rename."""

import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from provider import __version__
from provider.commands.install import versions
from provider.commands.install.changes import Change, Say, apply, locked, reported
from provider.commands.install.config_file import ConfigPlan, plan_config, write_config
from provider.commands.install.files import (
    add_name,
    is_link_to,
    link,
    make_directories,
    missing_directories,
    refuse_replaceable,
    restore_labels,
)
from provider.commands.install.layout import EXECUTABLE, MANIFEST, is_intact
from provider.commands.install.merged_config import find_config
from provider.commands.install.paths import BACKUP_SUFFIX, InstallPaths, is_ours, version_of_link
from provider.commands.install.record import Record, read_record, record_path, write_record
from provider.commands.kubelet_config import PROVIDER_NAME, entry_digest
from provider.errors import CannotInstall
from provider.frozen import folder


def install(paths: InstallPaths, dry_run: bool, say: Say) -> None:
    """Install the running program and switch to it. A second run changes nothing.

    Raises CannotInstall, or Damaged if the running program is damaged, before the switch.
    """
    running = folder()
    if running is None:
        raise CannotInstall(
            "only the standalone binary can be installed, and this is the source",
            "Download the binary of a release, or build it: make binary",
        )
    os.umask(0o022)  # every user can read the new files from the start
    with reported(paths.prefix):
        paths = find_config(paths)
        # This stays true: nobody else can create the paths that install has yet to create.
        directories = paths.prefix, paths.bin_dir, paths.config_dir
        refuse_replaceable(*directories, record_path(paths.prefix))
    with reported(paths.prefix), locked(paths.prefix, dry_run) as created:
        _refuse_foreign(paths)
        record = read_record(paths.prefix)
        config = plan_config(paths, record)
        current = version_of_link(paths.link, paths.prefix)
        copy = versions.find_copy(paths.prefix, Path(running), current)
        if copy is not None:
            if not dry_run:
                restore_labels(copy)
            versions.self_test(copy / EXECUTABLE)
        changes = list(_changes(paths, record, Path(running), copy, config, created))
        apply(changes, dry_run, say)
        if not changes:
            say(f"{__version__} is already installed; there is nothing to change")
        for note in config.notes:
            say(note)


def _changes(
    paths: InstallPaths,
    record: Record,
    running: Path,
    copy: Path | None,
    config: ConfigPlan,
    created: list[Path],
) -> Iterator[Change]:
    """The changes in order. ``copy`` is an intact copy of the ``running`` program, if there is one;
    ``created`` are the directories that this run has created so far.
    """
    target = copy or versions.free_name(paths.prefix)
    if copy is None:
        unpack = partial(versions.unpack_and_test, paths.prefix, running, target)
        yield Change(target, "unpacked and tested", unpack)

    updated = _updated(paths, record, target, config, created)
    if updated != record:
        path = record_path(paths.prefix)
        yield Change(path, "written", partial(write_record, paths.prefix, updated))

    links = {paths.link: str(target / EXECUTABLE), **dict.fromkeys(paths.aliases, PROVIDER_NAME)}
    for path, to in links.items():
        if not is_link_to(path, to):
            yield Change(path, f"linked to {to}", partial(_link, path, to, paths.prefix))

    if config.text is not None:
        yield Change(paths.config, config.done, partial(write_config, paths, config))

    # Other bin dirs may use other versions. The version before stays, for a rollback.
    others = [Path(bin_dir) for bin_dir in updated.bin_dirs if bin_dir != str(paths.bin_dir)]
    linked = (version_of_link(bin_dir / PROVIDER_NAME, paths.prefix) for bin_dir in others)
    for old in versions.unneeded(paths.prefix, {target.name, updated.previous, *linked}):
        yield Change(old, "removed", partial(versions.remove_if_possible, old))


def _updated(
    paths: InstallPaths, record: Record, target: Path, config: ConfigPlan, created: list[Path]
) -> Record:
    """The record after this run."""
    configs, merged = dict(record.configs), dict(record.merged)
    created = [*created, *missing_directories(paths.bin_dir)]
    if config.text is not None and config.merged:
        merged[str(paths.config)] = entry_digest(config.text)
    elif config.text is not None:
        configs[str(paths.config)] = sha256(config.text.encode()).hexdigest()
        created += missing_directories(paths.config_dir)
    previous = record.previous
    current = version_of_link(paths.link, paths.prefix)
    if current and current != target.name and is_intact(paths.prefix / current):
        previous = current
    return replace(
        record,
        bin_dirs=tuple(sorted({*record.bin_dirs, str(paths.bin_dir)})),
        configs=tuple(sorted(configs.items())),
        merged=tuple(sorted(merged.items())),
        folders=tuple(sorted({*record.folders, *map(str, created)})),
        previous="" if previous == target.name else previous,
    )


def _refuse_foreign(paths: InstallPaths) -> None:
    """Raise CannotInstall if another program has one of this program's names."""
    for path in (paths.link, *paths.aliases):
        if os.path.lexists(path) and not (is_ours(path, paths.prefix) or _is_known_program(path)):
            raise CannotInstall(
                f"{path} exists and is neither this program nor Oracle's Go provider",
                "Move it, or choose another --bin-dir.",
            )


def _is_known_program(path: Path) -> bool:
    """True for this program in any form (a copy of the one file, or of another prefix), and for the
    Go provider, which the module path in its build information identifies.
    """
    real = path.resolve()
    try:
        if real.name == PROVIDER_NAME and (real.parent.parent / MANIFEST).is_file():
            return True
        if zipfile.is_zipfile(real):
            with zipfile.ZipFile(real) as archive:
                return {EXECUTABLE, MANIFEST} <= set(archive.namelist())
        content = real.read_bytes()
    except (OSError, zipfile.BadZipFile):
        return False
    go = content.startswith(b"\x7fELF") and b"\xff Go buildinf:" in content
    return go and b"/credential-provider-oke" in content


def _link(path: Path, to: str, prefix: Path) -> None:
    make_directories(path.parent)
    if os.path.lexists(path) and not is_ours(path, prefix):
        add_name(path, path.with_name(path.name + BACKUP_SUFFIX))
    link(path, to)
