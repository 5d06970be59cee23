"""``uninstall``: what ``install`` put on the node goes, and nothing else."""

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path

from provider.cache.tmpfs import CacheUnavailable, Store
from provider.commands.install.files import refuse_replaceable
from provider.commands.install.layout import remove
from provider.commands.install.places import (
    ALIASES,
    KEPT,
    Record,
    Say,
    Step,
    is_ours,
    locked,
    read_record,
    record_path,
    reported,
    take,
    version_folders,
)
from provider.commands.kubelet_config import PROVIDER_NAME
from provider.commands.node.files import BIN_DIR_FLAG, CONFIG_FLAG
from provider.commands.node.kubelet_unit import DROP_IN, UnitFile, flags_in
from provider.commands.node.processes import find_kubelets
from provider.errors import StillInUse


def uninstall(prefix: Path, force: bool, dry_run: bool, say: Say) -> None:
    """Take it away. Raises StillInUse (unless ``force``), CannotInstall."""
    if not prefix.is_dir():
        say(f"nothing is installed in {prefix}")
        return
    with reported():
        refuse_replaceable(prefix, record_path(prefix))
    with reported(), locked(prefix, dry_run):
        record = read_record(prefix)
        refuse_replaceable(*map(Path, [*record.bin_dirs, *(path for path, _ in record.configs)]))
        if not force:
            _refuse_while_used(record)
            _refuse_while_enabled(record)
        take(list(_steps(prefix, record)), dry_run, say)
        if not dry_run:
            for folder in sorted(record.folders, key=len, reverse=True):
                with suppress(OSError):  # something else is in it by now
                    os.rmdir(folder)


def _refuse_while_used(record: Record) -> None:
    """Raise StillInUse. Each kubelet of root's counts, also one that could not be proven: to refuse
    is safe. Nothing is executed.
    """
    for kubelet in find_kubelets(ask_version=False).kubelets:
        for flag in (BIN_DIR_FLAG, CONFIG_FLAG):
            value = kubelet.flag(flag)
            if value and _installed(flag, value, record):
                raise StillInUse(f"the kubelet (pid {kubelet.pid}) runs with {flag}={value}")


def _refuse_while_enabled(record: Record) -> None:
    """Also when no kubelet runs now: the next one would not start."""
    try:
        text = Path(DROP_IN).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for flag, value, path in flags_in([UnitFile(DROP_IN, text)]):
        if _installed(flag, value, record):
            raise StillInUse(f"{path} starts the kubelet with {flag}={value}")


def _installed(flag: str, value: str, record: Record) -> bool:
    """True when ``install`` put there what the flag names."""
    configs = [path for path, _ in record.configs]
    ours = {
        BIN_DIR_FLAG: [*record.bin_dirs],
        CONFIG_FLAG: [*configs, *map(os.path.dirname, configs)],  # it takes folders too
    }
    return os.path.realpath(value) in map(os.path.realpath, ours[flag])


def _steps(prefix: Path, record: Record) -> Iterator[Step]:
    """The changes, in their order: at each moment, what is there is whole."""
    for bin_dir in map(Path, record.bin_dirs):
        for name in (*ALIASES, PROVIDER_NAME):
            path, kept = bin_dir / name, bin_dir / (name + KEPT)
            if not is_ours(path, prefix):
                continue
            if os.path.lexists(kept):
                yield Step(path, "what it was before install", partial(kept.replace, path))
            else:
                yield Step(path, "removed", path.unlink)
    for name, digest in record.configs:
        path = Path(name)
        if path.is_file() and sha256(path.read_bytes()).hexdigest() == digest:
            yield Step(path, "removed", path.unlink)
    for folder in version_folders(prefix):
        yield Step(folder, "removed", partial(remove, folder))
    with suppress(CacheUnavailable):  # there is none, or it is not this program's
        store = Store.open({}, make=False)
        yield Step(Path(store.path), "removed", store.remove)
    path = record_path(prefix)
    yield Step(path, "removed", partial(path.unlink, missing_ok=True))
