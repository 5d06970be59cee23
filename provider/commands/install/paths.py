"""The paths and options of an installation, and which files ``install`` wrote."""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider.commands.install.files import is_link_to
from provider.commands.install.layout import EXECUTABLE, MANIFEST
from provider.commands.kubelet_config import ALIAS, PROVIDER_NAME
from provider.plugin import docker_helper

CONFIG: Final = "credential-provider-config.yaml"
ALIASES: Final = (ALIAS, docker_helper.NAME)
# Added to the name of a program that a link replaces; uninstall removes it again.
BACKUP_SUFFIX: Final = ".before-install"


@dataclass(frozen=True, slots=True)
class InstallPaths:
    """The target directories, as absolute paths. ``helper`` adds the credential helper's name.

    ``merge``: the config or config directory to merge into; "" is the running kubelet's, or the
    default one. ``directory``: the kubelet reads all files of ``config_dir``.
    """

    bin_dir: Path
    config_dir: Path
    prefix: Path
    helper: bool = False
    merge: str | None = None
    config_name: str = CONFIG
    directory: bool = False

    @property
    def link(self) -> Path:
        """The program's name in the bin dir: the link whose rename is the switch."""
        return self.bin_dir / PROVIDER_NAME

    @property
    def aliases(self) -> list[Path]:
        """The program's other names, which are links to the first."""
        return [self.bin_dir / name for name in (ALIASES if self.helper else ALIASES[:1])]

    @property
    def config(self) -> Path:
        """The CredentialProviderConfig."""
        return self.config_dir / self.config_name


def backup_of(config: Path) -> Path:
    """The name that a config gets when the program's entry is added to it."""
    return config.with_name(config.name + BACKUP_SUFFIX)


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """What ``install`` was asked for. ``realm`` and ``hosts`` are those of the config."""

    realm: str | None = None
    hosts: tuple[str, ...] = ()
    take_over: bool = False
    allow_downgrade: bool = False
    create_bin_dir: bool = False
    dry_run: bool = False


def version_of_link(path: Path, prefix: Path) -> str | None:
    """The name of the version's directory that a link of ``install`` leads to, else None."""
    if not path.is_symlink():
        return None
    directory, executable, _ = os.readlink(path).partition(f"/{EXECUTABLE}")
    return Path(directory).name if executable and Path(directory).parent == prefix else None


def is_ours(path: Path, prefix: Path) -> bool:
    """True for a link that ``install`` made: to a version, or from an alias to the first name."""
    if path.name in ALIASES and is_link_to(path, PROVIDER_NAME):
        return True
    return version_of_link(path, prefix) is not None


def is_go_provider(path: Path) -> bool:
    """True for Oracle's Go provider, which the module path in its build information identifies."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    go = content.startswith(b"\x7fELF") and b"\xff Go buildinf:" in content
    return go and b"/credential-provider-oke" in content


def is_copy(path: Path) -> bool:
    """True for a copy of this program: the one file, or an installation with another prefix."""
    real = path.resolve()
    try:
        if real.name == PROVIDER_NAME and (real.parent.parent / MANIFEST).is_file():
            return True
        if zipfile.is_zipfile(real):
            with zipfile.ZipFile(real) as archive:
                return {EXECUTABLE, MANIFEST} <= set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        pass
    return False
