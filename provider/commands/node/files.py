"""Read the node's files: the kubelet's config, the providers' programs, init scripts.

``check`` neither trusts nor executes a config or a program that users other than root can replace.
"""

import errno
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from provider.commands.kubelet_config import (
    ALIAS,
    CONFIG_SUFFIXES,
    PROVIDER_NAME,
    Finding,
    validate,
    validate_directory,
)
from provider.root_only import PATH, who_can_replace

CONFIG_FLAG: Final = "--image-credential-provider-config"
BIN_DIR_FLAG: Final = "--image-credential-provider-bin-dir"
# The defaults of `install`.
USUAL_CONFIG: Final = "/etc/kubernetes/credential-provider-config.yaml"
USUAL_BIN_DIR: Final = "/usr/local/bin"
USUAL_PREFIX: Final = "/usr/local/lib/oke-credential-provider"
# OKE's own files. oke-install.sh writes oke.conf, and oke.service passes it to `oke bootstrap`.
OKE_FOLDER: Final = "/etc/oke"
OKE_CONF: Final = f"{OKE_FOLDER}/oke.conf"
OKE_INIT: Final = "/var/run/oke-init.sh"
OKE_INSTALL: Final = f"{OKE_FOLDER}/oke-install.sh"
_MAX_BYTES: Final = 1 << 20
_TOO_LARGE: Final = "larger than 1 MiB"
_NOT_TEXT: Final = "not UTF-8 text"
_SECONDS: Final = 10.0
# A file with the same time as the kubelet's start may be the one that it read.
_SAME_MOMENT: Final = 2.0
# The files that execve(2) runs: ELF, whose smallest header has 52 bytes, and scripts.
_PROGRAM: Final = re.compile(rb"\x7fELF.{48}|#![ \t]*[^ \t\n]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ConfigFiles:
    """A CredentialProviderConfig: the text of one file, or the texts of a directory by file name.

    ``error`` says why it cannot be read; ``denied``: this user has no permission. ``changed`` is a
    Unix time. ``replaceable`` says how a user other than root can replace one of the files.
    """

    path: str
    texts: Mapping[str, str]
    directory: bool = False
    changed: float = 0.0
    error: str | None = None
    denied: bool = False
    replaceable: str | None = None
    exists: bool = True

    def is_newer_than(self, started: float) -> bool:
        """True if a kubelet that started then may have read another config."""
        return self.changed > started + _SAME_MOMENT


@dataclass(frozen=True, slots=True)
class Executable:
    """A provider's program in the bin dir.

    ``state`` is "ok" or says why it cannot be started. ``replaceable`` says how a user other than
    root can replace it.
    """

    path: str
    state: str
    denied: bool = False
    replaceable: str | None = None


NOT_EXECUTABLE: Final = "not executable"
NOT_A_PROGRAM: Final = "neither an ELF file nor a script"


@dataclass(frozen=True, slots=True)
class Output:
    """The standard output of a command; ``error`` says why it failed."""

    text: str
    error: str | None = None


def read_config(path: str) -> ConfigFiles:
    """Read the file or the directory that the kubelet would read at ``path``."""
    try:
        directory = os.path.isdir(path)
        paths = {path: path}
        if directory:
            names = sorted(name for name in os.listdir(path) if name.endswith(CONFIG_SUFFIXES))
            paths = {name: os.path.join(path, name) for name in names}
        replaceable = _others(path, *paths.values())
        texts = {name: _text(file) for name, file in paths.items()}
        changed = max((os.stat(file).st_mtime for file in paths.values()), default=0.0)
        return ConfigFiles(path, texts, directory, changed, replaceable=replaceable)
    except PermissionError as error:
        return ConfigFiles(path, {}, error=str(error.strerror), denied=True)
    except OSError as error:
        exists = os.path.lexists(path)
        return ConfigFiles(path, {}, error=str(error.strerror), exists=exists)
    except ValueError:
        return ConfigFiles(path, {}, error=_NOT_TEXT)


def findings_of(files: ConfigFiles, version: str | None) -> list[Finding]:
    """Validate a config that was read. Raises ValueError for a malformed kubelet version."""
    if files.directory:
        return validate_directory(files.texts, kubelet_version=version)
    return validate(files.texts[files.path], kubelet_version=version)


def _others(*paths: str) -> str | None:
    """How a user other than root can replace one of the files. Raises OSError."""
    return next(filter(None, map(who_can_replace, paths)), None)


def read_standard_input() -> ConfigFiles:
    """Read a config from standard input."""
    data = sys.stdin.buffer.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        return ConfigFiles("-", {}, error=_TOO_LARGE)
    try:
        return ConfigFiles("-", {"-": data.decode("utf-8")})
    except ValueError:
        return ConfigFiles("-", {}, error=_NOT_TEXT)


def _text(path: str) -> str:
    with open(path, "rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise OSError(errno.EFBIG, _TOO_LARGE, path)
    return data.decode("utf-8")


def read_texts(paths: Iterable[str]) -> dict[str, str]:
    """The texts of the files that exist; "" for a file that this user cannot read."""
    texts = {}
    for path in paths:
        try:
            with open(path, "rb") as file:
                texts[path] = file.read(_MAX_BYTES).decode("utf-8", "replace")
        except FileNotFoundError:
            continue
        except OSError:
            texts[path] = ""
    return texts


def look_at(bin_dir: str, names: Sequence[str]) -> list[Executable]:
    """Find the providers' programs as the kubelet does."""
    return [_executable(os.path.join(bin_dir, name)) for name in names]


def _executable(path: str) -> Executable:
    replaceable = None
    try:
        replaceable = _others(path)
        mode = os.stat(path).st_mode
    except PermissionError:
        return Executable(path, "not visible", denied=True)
    except OSError:
        return Executable(path, "not there", replaceable=replaceable)
    if not stat.S_ISREG(mode):
        return Executable(path, "not a file")
    state = "ok" if mode & 0o111 else NOT_EXECUTABLE
    if state == "ok" and not _is_program(path):
        state = NOT_A_PROGRAM
    return Executable(path, state, replaceable=replaceable)


def _is_program(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return _PROGRAM.match(file.read(64)) is not None
    except OSError:  # this user may execute the file, but not read it
        return True


def is_this_program(path: str) -> bool:
    """True if ``path`` is the file of this process's program."""
    ours = sys.executable if getattr(sys, "frozen", False) else sys.argv[0]
    try:
        return os.path.samefile(path, ours)
    except OSError:
        return False


def is_ours(name: str, bin_dir: str) -> bool:
    """True if a provider in a config is this program, by its name or its file."""
    return name in (PROVIDER_NAME, ALIAS) or is_this_program(os.path.join(bin_dir, name))


def init_scripts() -> dict[str, str]:
    """OKE's init scripts that this user can read, by path."""
    try:
        names = [name for name in os.listdir(OKE_FOLDER) if name.endswith(".sh")]
    except OSError:
        names = []
    paths = [OKE_INIT, *(os.path.join(OKE_FOLDER, name) for name in names)]
    return {path: text for path, text in read_texts(paths).items() if text}


def has_kubelet() -> bool:
    """True if a kubelet is installed, whether or not it runs."""
    return any(os.access(f"{folder}/kubelet", os.X_OK) for folder in PATH.split(":"))


def ask_version(path: str) -> Output:
    """Run an installed program's ``version`` command."""
    return run([path, "version", "--output", "json"])


def run(argv: Sequence[str], *, program: str | None = None, pass_fds: Sequence[int] = ()) -> Output:
    """Run ``program`` (argv[0] by default) in / with only PATH in its environment.

    It inherits the file descriptors ``pass_fds``.
    """
    try:
        done = subprocess.run(
            argv,
            executable=program,
            pass_fds=pass_fds,
            env={"PATH": PATH},
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Output("", f"no answer within {_SECONDS:g} s")
    except OSError as error:
        return Output("", error.strerror or "cannot be started")
    if done.returncode != 0:
        return Output("", f"exit status {done.returncode}")
    return Output(done.stdout.decode("utf-8", "replace"))
