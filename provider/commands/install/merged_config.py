"""A config that ``install`` did not write: find it, and remove this program's entry from it."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from provider.commands.install.files import refuse_replaceable, sync, write_file
from provider.commands.install.paths import InstallPaths, backup_of
from provider.commands.kubelet_config import (
    PROVIDER_NAME,
    entry_digest,
    file_for_entry,
    load,
    remove_entry,
)
from provider.commands.node.files import BIN_DIR_FLAG, CONFIG_FLAG, findings_of, read_config
from provider.commands.node.processes import Kubelet, find_kubelets
from provider.errors import CannotInstall, CannotMerge

# A config and its text after uninstall; None: the file is removed.
Edits = Mapping[Path, str | None]


def find_config(paths: InstallPaths) -> InstallPaths:
    """``paths`` with the config to merge into, if there is one. Raises OSError, CannotInstall, CannotMerge.

    A symbolic link is followed only if no other user can replace it.
    """
    if paths.merge is None:
        return paths
    kubelets = find_kubelets(ask_version=False).proven
    used = [value for each in kubelets if os.path.isabs(value := each.flag(CONFIG_FLAG) or "")]
    given = paths.merge or next(iter(used), str(paths.config))
    refuse_replaceable(Path(given))
    path = Path(given).resolve()
    if not path.exists():
        if paths.merge:
            raise CannotMerge(
                f"{path} does not exist", "Without --merge, install writes a new config."
            )
        return paths
    if str(path.parent) in map(os.path.realpath, used):
        raise CannotMerge(
            f"{path} is one file of the kubelet's config", f"Run install --merge {path.parent}"
        )
    for kubelet in kubelets:
        _refuse_other_bin_dir(kubelet, path, paths.bin_dir)
    if not path.is_dir():
        return replace(paths, config_dir=path.parent, config_name=path.name)
    files = read_config(str(path))
    try:
        if files.error:
            raise ValueError(files.error)
        name = file_for_entry(files.texts, os.listdir(path))
        refuse_replaceable(path / name)
    except ValueError as error:
        raise CannotMerge(f"{path}: {error}") from error
    return replace(paths, config_dir=path, config_name=name, directory=True)


def _refuse_other_bin_dir(kubelet: Kubelet, config: Path, bin_dir: Path) -> None:
    """Raise CannotInstall if the kubelet reads the config and would not find this program."""
    used, programs = kubelet.flag(CONFIG_FLAG), kubelet.flag(BIN_DIR_FLAG)
    if not used or not programs or os.path.realpath(used) != str(config):
        return
    if os.path.realpath(programs) != os.path.realpath(bin_dir):
        raise CannotInstall(
            f"the kubelet (pid {kubelet.pid}) reads {config} and looks for its programs in {programs},"
            f" not in {bin_dir}",
            f"Add --bin-dir {programs}",
        )


def without_entry(merged: Iterable[str], force: bool) -> Iterator[tuple[Path, str]]:
    """Each config that has the entry that ``install`` added, and its text without the entry.

    Raises OSError, and CannotMerge if the entry cannot be removed, unless ``force``.
    """
    for path in map(Path, merged):
        try:
            text = path.read_bytes().decode()
            if not entry_digest(text):
                continue
            rest = remove_entry(text)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            continue  # the file is gone
        except ValueError as error:
            if not force:
                raise CannotMerge(
                    f"the entry of {PROVIDER_NAME} cannot be removed from {path}: {error}",
                    "Remove the entry by hand. If there is no other provider, remove the kubelet's flags and"
                    " the file. With --force, the file stays as it is.",
                ) from error
        else:
            yield path, rest


def take_out(path: Path, text: str | None) -> None:
    """Write the config without the entry, if it has one, and remove its backup."""
    if text is not None:
        write_file(path, text, path.stat())
    backup_of(path).unlink(missing_ok=True)
    sync(path.parent)


def starts_without(kubelet: Kubelet, edited: Edits, installed: Callable[[str], bool]) -> bool:
    """True if the kubelet's config is one of those edited, and names no installed program after that.

    ``installed`` decides whether a path leads to one.
    """
    config, bin_dir = kubelet.flag(CONFIG_FLAG) or "", kubelet.flag(BIN_DIR_FLAG) or ""
    if not os.path.isabs(config) or not os.path.isabs(bin_dir):
        return False
    files = read_config(config)
    if files.error or files.replaceable:
        return False
    texts: dict[str, str] = {}
    for name, text in files.texts.items():
        path = Path(os.path.realpath(os.path.join(config, name) if files.directory else config))
        if (rest := edited.get(path, text)) is not None:
            texts[name] = rest
    if texts == files.texts or not texts:
        return False
    if any(each.severity == "fatal" for each in findings_of(replace(files, texts=texts), None)):
        return False
    names = [provider.name for text in texts.values() for provider in load(text).providers]
    return not any(installed(os.path.join(bin_dir, name)) for name in names)
