"""What the node says of itself: the running kubelet, its files, the scripts that started it.

All reading is here. Nothing that a pod's process says is believed: a check that root runs would
otherwise open the files and start the programs that somebody in a container names.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from provider.kubelet_config import ALIAS, PROVIDER_NAME

CONFIG_FLAG: Final = "--image-credential-provider-config"
BIN_DIR_FLAG: Final = "--image-credential-provider-bin-dir"
# Where `install` puts things.
USUAL_CONFIG: Final = "/etc/kubernetes/credential-provider-config.yaml"
USUAL_BIN_DIR: Final = "/usr/local/bin"
INIT_SCRIPTS: Final = ("/var/run/oke-init.sh", "/etc/oke")
_MAX_BYTES: Final = 1 << 20
_SECONDS: Final = 10.0
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Kubelet:
    """A running kubelet. ``environ`` is None when this user may not see it; ``version`` ("1.34")
    when it did not say. ``started`` is in Unix seconds.
    """

    pid: int
    argv: tuple[str, ...]
    environ: Mapping[str, str] | None
    version: str | None
    started: float

    def flag(self, name: str) -> str | None:
        """The flag's value; the last one counts, as for the kubelet. None when it is not given."""
        value = None
        for word, following in zip(self.argv, (*self.argv[1:], ""), strict=True):
            given, equals, text = word.partition("=")
            if given == name:
                value = text if equals else following
        return value or None


@dataclass(frozen=True, slots=True)
class Processes:
    """``kubelet`` is None when none runs; ``all_seen`` False when others' processes are hidden."""

    kubelet: Kubelet | None
    all_seen: bool


@dataclass(frozen=True, slots=True)
class ConfigFiles:
    """A CredentialProviderConfig: a file's text, or those of a directory by name.

    ``error`` tells why it cannot be read; ``denied`` that this user may not. ``changed`` is in Unix
    seconds.
    """

    path: str
    texts: Mapping[str, str]
    directory: bool = False
    changed: float = 0.0
    error: str | None = None
    denied: bool = False
    exists: bool = True


@dataclass(frozen=True, slots=True)
class Executable:
    """A provider's program in the bin dir: ``state`` is what the kubelet would find."""

    path: str
    state: str  # "ok", or why the kubelet could not start it
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """What a program printed for ``version --output json``; ``error`` when it could not be run."""

    text: str
    error: str | None = None


def find_kubelet() -> Processes:
    """The node's kubelet: the first process of that name that is root's (or ours), in no pod."""
    try:
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdecimal())
    except OSError:
        return Processes(None, False)
    for pid in pids:
        argv = _words(f"/proc/{pid}/cmdline")
        if argv and os.path.basename(argv[0]) == "kubelet" and _is_the_nodes(pid):
            return Processes(_kubelet(pid, argv), True)
    # With hidepid, process 1 is hidden from all but root.
    return Processes(None, os.path.exists("/proc/1/cmdline"))


def _words(path: str) -> tuple[str, ...]:
    try:
        return tuple(os.fsdecode(Path(path).read_bytes()).rstrip("\0").split("\0"))
    except OSError:
        return ()


def _is_the_nodes(pid: int) -> bool:
    try:
        owner = os.stat(f"/proc/{pid}").st_uid
        cgroups = Path(f"/proc/{pid}/cgroup").read_text(errors="replace")
    except OSError:
        return False
    return is_believed(owner, cgroups, os.geteuid())


def is_believed(owner: int, cgroups: str, ours: int) -> bool:
    """May a process that calls itself kubelet be the node's? ``owner`` and ``ours`` are user ids;
    ``cgroups`` is its /proc/<pid>/cgroup, in which every pod is below "kubepods".
    """
    return owner in (0, ours) and "kubepods" not in cgroups


def _kubelet(pid: int, argv: tuple[str, ...]) -> Kubelet:
    environ = None
    if os.access(f"/proc/{pid}/environ", os.R_OK):
        pairs = (word.partition("=") for word in _words(f"/proc/{pid}/environ"))
        environ = {name: value for name, _, value in pairs if name}
    version = None
    if os.path.isabs(argv[0]):
        found = re.search(r"Kubernetes v(\d+\.\d+)", _run([argv[0], "--version"]).text)
        version = found[1] if found else None
    return Kubelet(pid, argv, environ, version, _started(pid))


def _started(pid: int) -> float:
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2]
        boot = re.search(r"^btime (\d+)", Path("/proc/stat").read_text(), re.M)
        assert boot
        # proc(5): starttime is field 22, in clock ticks since boot.
        return int(boot[1]) + int(after_name.split()[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AssertionError, IndexError, ValueError):
        return 0.0


def read_config(path: str) -> ConfigFiles:
    """Read what the kubelet would read at ``path``."""
    try:
        if not os.path.isdir(path):
            return ConfigFiles(path, {path: _text(path)}, changed=os.stat(path).st_mtime)
        names = sorted(os.listdir(path))
        texts = {name: _text(os.path.join(path, name)) for name in names if _is_config(name)}
        changed = max((os.stat(os.path.join(path, name)).st_mtime for name in texts), default=0.0)
        return ConfigFiles(path, texts, directory=True, changed=changed)
    except PermissionError as error:
        return ConfigFiles(path, {}, error=str(error.strerror), denied=True)
    except OSError as error:
        exists = os.path.lexists(path)
        return ConfigFiles(path, {}, error=str(error.strerror), exists=exists)
    except ValueError:
        return ConfigFiles(path, {}, error="not UTF-8 text")


def read_standard_input() -> ConfigFiles:
    """A config that is piped in."""
    try:
        return ConfigFiles("-", {"-": sys.stdin.buffer.read(_MAX_BYTES).decode("utf-8")})
    except ValueError:
        return ConfigFiles("-", {}, error="not UTF-8 text")


def _is_config(name: str) -> bool:
    return name.endswith((".json", ".yaml", ".yml"))


def _text(path: str) -> str:
    with open(path, "rb") as file:
        return file.read(_MAX_BYTES).decode("utf-8")


def look_at(bin_dir: str, names: Sequence[str]) -> list[Executable]:
    """The providers' programs, as the kubelet would find them."""
    return [_executable(os.path.join(bin_dir, name)) for name in names]


def _executable(path: str) -> Executable:
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        return Executable(path, "not visible", denied=True)
    except OSError:
        return Executable(path, "not there")
    if os.path.isdir(path):
        return Executable(path, "a folder")
    return Executable(path, "ok" if mode & 0o111 else "not executable")


def is_this_program(path: str) -> bool:
    """True when ``path`` is the file that runs now."""
    ours = sys.executable if getattr(sys, "frozen", False) else sys.argv[0]
    try:
        return os.path.samefile(path, ours)
    except OSError:
        return False


def ask_version(path: str) -> Answered:
    """Run the installed program for its version, as the kubelet would start it."""
    return _run([path, "version", "--output", "json"])


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
    return any(os.access(f"{folder}/kubelet", os.X_OK) for folder in _PATH.split(":"))


def _run(argv: Sequence[str]) -> Answered:
    try:
        done = subprocess.run(
            argv,
            env={"PATH": _PATH},
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
