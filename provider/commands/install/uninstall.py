"""The ``uninstall`` command: remove what ``install`` wrote, and nothing else."""

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path

from provider.cache.tmpfs import CacheUnavailable, Store
from provider.commands.install.changes import Change, Changed, apply, locked, reported
from provider.commands.install.files import refuse_replaceable
from provider.commands.install.layout import remove
from provider.commands.install.merged_config import Edits, starts_without, take_out, without_entry
from provider.commands.install.paths import ALIASES, BACKUP_SUFFIX, backup_of, is_ours
from provider.commands.install.record import Record, read_record, record_path
from provider.commands.install.versions import version_directories
from provider.commands.kubelet_config import PROVIDER_NAME, ConfigError, load, merge
from provider.commands.node.files import BIN_DIR_FLAG, CONFIG_FLAG, look_at, read_config
from provider.commands.node.kubelet_unit import DROP_IN, UnitFile, flags_in
from provider.commands.node.processes import Kubelet, find_kubelets
from provider.commands.outcome import Say
from provider.errors import StillInUse


def uninstall(prefix: Path, force: bool, dry_run: bool, say: Say) -> Changed:
    """Remove the installation. Raises CannotInstall, and StillInUse unless ``force``."""
    if not prefix.is_dir():
        say(f"nothing is installed in {prefix}")
        return Changed(False, [])
    with reported(prefix):
        refuse_replaceable(prefix, record_path(prefix))
    with reported(prefix), locked(prefix, dry_run):
        record = read_record(prefix)
        refuse_replaceable(*map(Path, [*record.bin_dirs, *(path for path, _ in record.configs)]))
        refuse_replaceable(*map(Path, dict(record.merged)))
        edited: Edits = {
            **dict.fromkeys(_own_configs(record)),
            **dict(without_entry(dict(record.merged), force)),
        }
        if not force:
            installed = _installed(prefix, record)
            _refuse_while_used(installed, _restored(prefix, record), edited, say)
            _refuse_while_enabled(installed)
        outcome = apply(list(_changes(prefix, record, edited)), dry_run, say)
        if not dry_run:
            for directory in sorted(record.folders, key=len, reverse=True):
                with suppress(OSError):  # it has other files now
                    os.rmdir(directory)
        return outcome


def _refuse_while_used(
    installed: set[tuple[int, int]], restored: set[str], edited: Edits, say: Say
) -> None:
    """Raise StillInUse. It counts each kubelet that root runs, proven or not, because refusing is safe.
    A kubelet is no obstacle if its config keeps other providers and loses this one. Nothing is executed.
    """
    for kubelet in find_kubelets(ask_version=False).kubelets:
        if starts_without(kubelet, edited, lambda path: _identity(path) in installed):
            say(f"restart the kubelet (pid {kubelet.pid}): until then it still calls this program")
            continue
        if _works_without(kubelet, installed, restored):
            continue
        for flag in (BIN_DIR_FLAG, CONFIG_FLAG):
            value = kubelet.flag(flag)
            if value and (path := _find(installed, value)):
                raise StillInUse(
                    f"the kubelet (pid {kubelet.pid}) runs with {flag}={value}{_through(path, value)}"
                )


def _works_without(kubelet: Kubelet, installed: set[tuple[int, int]], restored: set[str]) -> bool:
    """True if the kubelet's config stays and each program that it names stays or is restored."""
    config, bin_dir = kubelet.flag(CONFIG_FLAG) or "", kubelet.flag(BIN_DIR_FLAG) or ""
    if not (kubelet.proven and os.path.isabs(config) and os.path.isabs(bin_dir)):
        return False
    files = read_config(config)
    if files.error or files.replaceable or files.is_newer_than(kubelet.started):
        return False
    try:
        decoded = merge(files.texts) if files.directory else load(files.texts[config])
    except ConfigError:
        return False
    folder = os.path.realpath(bin_dir)
    for provider in decoded.providers:
        path = os.path.join(folder, provider.name)
        ours = provider.name == PROVIDER_NAME or _identity(path) in installed
        if ours and path not in restored:
            return False
    return _find(installed, config) is None


def _restored(prefix: Path, record: Record) -> set[str]:
    """The programs that uninstall restores, and that the kubelet can start."""
    paths = [
        os.path.join(os.path.realpath(bin_dir), name)
        for bin_dir in record.bin_dirs
        for name in (*ALIASES, PROVIDER_NAME)
        if is_ours(Path(bin_dir, name), prefix)
    ]
    backups = look_at("/", [path + BACKUP_SUFFIX for path in paths])
    return {path for path, backup in zip(paths, backups, strict=True) if backup.state == "ok"}


def _refuse_while_enabled(installed: set[tuple[int, int]]) -> None:
    """Raise StillInUse, also when no kubelet runs: the next one could not start."""
    try:
        text = Path(DROP_IN).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for flag, value, file in flags_in([UnitFile(DROP_IN, text)]):
        if path := _find(installed, value):
            raise StillInUse(
                f"{file} starts the kubelet with {flag}={value}{_through(path, value)}"
            )


def _installed(prefix: Path, record: Record) -> set[tuple[int, int]]:
    """The identities (device, inode) of what ``install`` wrote. A path does not identify a file: the
    kubelet may reach it through a symbolic link, a hard link or a bind mount.
    """
    paths = [*record.bin_dirs, *dict(record.configs), *map(str, prefix.rglob("*"))]
    return {identity for path in paths if (identity := _identity(path))}


def _find(installed: set[tuple[int, int]], value: str) -> str | None:
    """The first installed file at ``value``: that path itself, or an entry of that directory."""
    paths = [value]
    with suppress(OSError):
        paths += [os.path.join(value, name) for name in sorted(os.listdir(value))]
    return next((path for path in paths if _identity(path) in installed), None)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _through(path: str, value: str) -> str:
    return "" if path == value else f", and {path} is an installed file"


def _own_configs(record: Record) -> Iterator[Path]:
    """The configs that ``install`` wrote and nobody has changed since."""
    for path, digest in record.configs:
        if Path(path).is_file() and sha256(Path(path).read_bytes()).hexdigest() == digest:
            yield Path(path)


def _changes(prefix: Path, record: Record, edited: Edits) -> Iterator[Change]:
    """The changes in order. After each of them, every remaining file still works."""
    for path in map(Path, dict(record.merged)):
        if path in edited or backup_of(path).exists():
            yield Change(
                path, f"freed of {PROVIDER_NAME}", partial(take_out, path, edited.get(path))
            )
    for path in _own_configs(record):
        yield Change(path, "removed", path.unlink)
    for bin_dir in map(Path, record.bin_dirs):
        for name in (*ALIASES, PROVIDER_NAME):
            path, backup = bin_dir / name, bin_dir / (name + BACKUP_SUFFIX)
            if not is_ours(path, prefix):
                continue
            if os.path.lexists(backup):
                yield Change(path, "restored", partial(backup.replace, path))
            else:
                yield Change(path, "removed", path.unlink)
    for directory in version_directories(prefix):
        yield Change(directory, "removed", partial(remove, directory))
    with suppress(CacheUnavailable):  # there is no cache, or it belongs to another user
        store = Store.open({}, make=False)
        yield Change(Path(store.path), "removed", store.remove)
    path = record_path(prefix)
    yield Change(path, "removed", partial(path.unlink, missing_ok=True))
