"""The container runtimes that a node can run: containerd and CRI-O."""

import json
import re
import shutil
import subprocess
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tests.cloud.model import PAUSE
from tests.cloud.namespace import PATH

# The node's folder, on the tmpfs of the cloud's namespace.
FOLDER = "/run/node"
SOCKET = f"{FOLDER}/runtime.sock"
_CONFIG = f"{FOLDER}/runtime.toml"
_PAUSE = f"fra.ocir.io/{PAUSE}:latest"
_LINE = r'^time="(?P<time>[^"]+)" level=\w+ msg='


@dataclass(frozen=True, slots=True)
class Runtime:
    """How to run a container runtime, and what it says. It logs to stderr, with times in UTC."""

    name: str
    program: str
    options: tuple[str, ...]
    files: Mapping[str, str]  # what it reads, by path
    ready: bytes  # in its log as soon as SOCKET exists
    # The start and the end of a pull in its log: `time` and `key`; `image` at the start, `done` at the end.
    pull: re.Pattern[str]
    denied: str  # in the event of a pull that OCIR denied

    @property
    def path(self) -> str:
        """PATH for the runtime: the folder of its program comes first."""
        return f"{Path(self.program).parent}:{PATH}"

    def version(self) -> str:
        argv = [self.program, "--version"]
        told = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        match = re.search(r"\d+\.\d+\.\d\S*", told)
        assert match is not None, told
        return match[0]


_CRI = 'plugins."io.containerd.grpc.v1.cri"'
CONTAINERD = Runtime(
    name="containerd",
    program="containerd",
    options=(f"--config={_CONFIG}",),
    files={
        _CONFIG: f"""
            version = 2
            root = "{FOLDER}/containerd"
            state = "{FOLDER}/containerd-state"
            [grpc]
            address = "{SOCKET}"
            [plugins."io.containerd.internal.v1.opt"]
            path = "{FOLDER}/opt"
            [{_CRI}]
            sandbox_image = "{_PAUSE}"
            disable_apparmor = true  # a profile would stay in the machine's kernel
            restrict_oom_score_adj = true  # in a container, root may not lower it
            [{_CRI}.cni]
            conf_dir = "{FOLDER}/cni"
            bin_dir = "{FOLDER}/cni"
            [{_CRI}.containerd]
            snapshotter = "native"
            [{_CRI}.containerd.runtimes.runc]
            runtime_type = "io.containerd.runc.v2"
        """
    },
    ready=b"containerd successfully booted",
    # No image of a pod is pulled twice at once.
    pull=re.compile(
        _LINE + r'"PullImage \\"(?P<key>(?P<image>[^"]+))\\"(?:"|(?P<done> returns))', re.M
    ),
    # It asks by HEAD: OCIR's own text is in no event.
    denied="403 Forbidden",
)
_POLICY = f"{FOLDER}/policy.json"
CRIO = Runtime(
    name="CRI-O",
    program="crio",
    options=(f"--config={_CONFIG}", "--config-dir="),
    files={
        # Its other folders are below /run, /var/lib and /var/log.
        _CONFIG: f"""
            [crio]
            root = "{FOLDER}/crio"
            runroot = "{FOLDER}/crio-state"
            storage_driver = "vfs"
            [crio.api]
            listen = "{SOCKET}"
            [crio.runtime]
            default_runtime = "runc"
            cgroup_manager = "cgroupfs"
            apparmor_profile = "unconfined"  # a profile would stay in the machine's kernel
            hooks_dir = []  # it would make the default folder
            irqbalance_config_restore_file = "disable"
            disable_hostport_mapping = true
            [crio.runtime.runtimes.runc]
            monitor_cgroup = "pod"
            [crio.image]
            pause_image = "{_PAUSE}"
            signature_policy = "{_POLICY}"
            signature_policy_dir = "{FOLDER}/policies"
            namespaced_auth_dir = "{FOLDER}/auth"
            [crio.network]
            network_dir = "{FOLDER}/cni"
            plugin_dirs = ["{FOLDER}/cni"]
            [crio.nri]
            enable_nri = false
        """,
        _POLICY: json.dumps({"default": [{"type": "insecureAcceptAnything"}]}),
    },
    ready=b"Registered SIGHUP reload watcher",
    # The end names no image. A failed pull has none.
    pull=re.compile(
        _LINE + r'"Pull(?:ing image: (?P<image>[^"]+)|(?P<done>ed) image: [^"]+)" id=(?P<key>\S+)',
        re.M,
    ),
    denied="denied: User UserId(",
)


def find(program: str) -> Runtime:
    """The runtime with this program, a name or a path. Raises ArgumentTypeError if there is none."""
    path = shutil.which(program, path=PATH)
    for runtime in (CONTAINERD, CRIO):
        if path and runtime.program == Path(path).name:
            return replace(runtime, program=str(Path(path).absolute()))
    raise ArgumentTypeError(f"{program} is not an installed containerd or crio")


def installed() -> list[Runtime]:
    """containerd, and CRI-O if it is installed."""
    return [find("containerd"), *([find("crio")] if shutil.which("crio", path=PATH) else ())]
