"""What the node's files say: the kubelet's config, its providers' programs, the init scripts.

All reading is here; the running kubelet is in ``processes``. Config and programs tell whether somebody
else than root can replace them: ``check`` neither believes nor executes those.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from provider.commands.kubelet_config import ALIAS, PROVIDER_NAME
from provider.root_only import PATH, who_can_replace

CONFIG_FLAG: Final = "--image-credential-provider-config"
BIN_DIR_FLAG: Final = "--image-credential-provider-bin-dir"
# Where `install` puts things.
USUAL_CONFIG: Final = "/etc/kubernetes/credential-provider-config.yaml"
USUAL_BIN_DIR: Final = "/usr/local/bin"
INIT_SCRIPTS: Final = ("/var/run/oke-init.sh", "/etc/oke")
_MAX_BYTES: Final = 1 << 20
_TOO_LARGE: Final = "larger than 1 MiB"
_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class ConfigFiles:
    """A CredentialProviderConfig: a file's text, or those of a directory by name.

    ``error`` tells why it cannot be read; ``denied`` that this user may not. ``changed`` is in Unix
    seconds. ``replaceable`` says how somebody else than root can replace one of the files.
    """

    path: str
    texts: Mapping[str, str]
    directory: bool = False
    changed: float = 0.0
    error: str | None = None
    denied: bool = False
    replaceable: str | None = None
    exists: bool = True


@dataclass(frozen=True, slots=True)
class Executable:
    """A provider's program in the bin dir: ``state`` is what the kubelet would find.

    ``replaceable`` says how somebody else than root can replace it.
    """

    path: str
    state: str  # "ok", or why the kubelet could not start it
    denied: bool = False
    replaceable: str | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """What a program printed for ``version --output json``; ``error`` when it could not be run."""

    text: str
    error: str | None = None


def read_config(path: str) -> ConfigFiles:
    """Read what the kubelet would read at ``path``."""
    try:
        directory = os.path.isdir(path)
        names = sorted(filter(_is_config, os.listdir(path))) if directory else [path]
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
        return ConfigFiles(path, {}, error="not UTF-8 text")


def _others(*paths: str) -> str | None:
    """How somebody else than root can replace one of these. Raises OSError."""
    return next(filter(None, map(who_can_replace, paths)), None)


def read_standard_input() -> ConfigFiles:
    """A config that is piped in."""
    data = sys.stdin.buffer.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        return ConfigFiles("-", {}, error=_TOO_LARGE)
    try:
        return ConfigFiles("-", {"-": data.decode("utf-8")})
    except ValueError:
        return ConfigFiles("-", {}, error="not UTF-8 text")


def _is_config(name: str) -> bool:
    return name.endswith((".json", ".yaml", ".yml"))


def _text(path: str) -> str:
    with open(path, "rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        # A judgement of its beginning would say nothing of what the kubelet reads.
        raise OSError(errno.EFBIG, _TOO_LARGE, path)
    return data.decode("utf-8")


def look_at(bin_dir: str, names: Sequence[str]) -> list[Executable]:
    """The providers' programs, as the kubelet would find them."""
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
    if os.path.isdir(path):
        return Executable(path, "a folder")
    return Executable(path, "ok" if mode & 0o111 else "not executable", replaceable=replaceable)


def is_this_program(path: str) -> bool:
    """True when ``path`` is the file that runs now."""
    ours = sys.executable if getattr(sys, "frozen", False) else sys.argv[0]
    try:
        return os.path.samefile(path, ours)
    except OSError:
        return False


def ask_version(path: str) -> Answered:
    """Run the installed program for its version, as the kubelet would start it."""
    return run([path, "version", "--output", "json"])


def init_scripts() -> dict[str, str]:
    """The node's own init scripts that this user may read, by path."""
    paths: list[str] = []
    for place in INIT_SCRIPTS:
        if os.path.isdir(place):
            try:
                paths += [os.path.join(place, n) for n in os.listdir(place) if n.endswith(".sh")]
            except OSError:
                continue
        else:
            paths.append(place)
    scripts = {}
    for path in paths:
        try:
            with open(path, "rb") as file:
                scripts[path] = file.read(_MAX_BYTES).decode("utf-8", "replace")
        except OSError:
            continue
    return scripts


def is_a_node() -> bool:
    """True where a kubelet is installed, whether or not it runs."""
    return any(os.access(f"{folder}/kubelet", os.X_OK) for folder in PATH.split(":"))


def run(
    argv: Sequence[str], *, program: str | None = None, pass_fds: Sequence[int] = ()
) -> Answered:
    """Run ``program`` (by default argv[0]) as the kubelet would: from /, with nothing but a PATH in
    the environment. ``pass_fds`` stay open for it.
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
        return Answered("", f"no answer within {_SECONDS:g} s")
    except OSError as error:
        return Answered("", error.strerror or "cannot be started")
    if done.returncode != 0:
        return Answered("", f"exit status {done.returncode}")
    return Answered(done.stdout.decode("utf-8", "replace"))


def is_ours(name: str, bin_dir: str) -> bool:
    """True when a config's provider is this program, by its name or by its file."""
    return name in (PROVIDER_NAME, ALIAS) or is_this_program(os.path.join(bin_dir, name))
