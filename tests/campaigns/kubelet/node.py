"""A node with a real kubelet and container runtime, in namespaces and cgroups that end with it.

It shares the cloud's network and its mounts, and has its own PID and cgroup namespaces. Needs root.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.campaigns.kubelet.log import NODE
from tests.campaigns.kubelet.runtime import FOLDER, SOCKET, Runtime
from tests.cloud.harness import Cloud
from tests.cloud.namespace import PATH, Closing
from tests.cloud.registry import wait_for

_PODS = "http://127.0.0.1:10255/pods"
# A machine that starts many pods at once answers late.
_SLOW_S = 60.0

# The first process. It is outside of the cloud, so that it can remove the cgroups after everything else
# has ended. The end of its input ends the node, however the campaign ended.
# In version 2, the cgroup above passes on its controllers. systemd lets it pass on only those that its
# units need, often just memory and pids. The kubelet and runc need all of them.
_HOLD = """
trap '' HUP INT TERM
added=
for group in $GROUPS; do
    above=${group%/*}
    [ -e "$above/cgroup.subtree_control" ] || continue
    for controller in $(cat "$above/cgroup.controllers"); do
        grep -qw "$controller" "$above/cgroup.subtree_control" || added="$added $controller"
    done
    for controller in $added; do echo "+$controller" >"$above/cgroup.subtree_control"; done
done
sh -c "$JOIN"
for try in $(seq 100); do
    left=
    for group in $GROUPS; do
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || left=yes
    done
    [ -n "$left" ] || break
    sleep 0.1
done
# The kernel refuses to take away those that systemd's units use by now.
for controller in $added; do echo "-$controller" >"$above/cgroup.subtree_control"; done 2>/dev/null
[ -z "$left" ]
"""
# Version 1 needs CPUs and memory in a cgroup of cpuset before a process. Version 2 gives the children of a
# cgroup their controllers only if no process is in it: all processes are in its child "system".
_JOIN = """
set -eu
for group in $GROUPS; do
    mkdir "$group"
    if [ -e "$group/cpuset.cpus" ] && [ -e "$group/cgroup.clone_children" ]; then
        for file in cpuset.cpus cpuset.mems; do cat "$group/../$file" >"$group/$file"; done
        echo 1 >"$group/cgroup.clone_children"
    fi
    mkdir "$group/system"
    echo 0 >"$group/cgroup.procs"
done
exec $ENTER unshare --cgroup sh -euc '
    for group in $GROUPS; do
        echo 0 >"$group/system/cgroup.procs"
        # As long as this cgroup passes them on, systemd cannot take them away above.
        [ ! -e "$group/cgroup.subtree_control" ] ||
            sed "s/[^ ]*/+&/g" "$group/cgroup.controllers" >"$group/cgroup.subtree_control"
    done
    exec unshare --pid --mount --fork --kill-child --propagation private sh -c "$INIT"
'
"""
# Process 1 of the node. The kubelet reads and sets some of the kernel's settings: it finds files that have
# its values already. CRI-O sets the limits of every controller of version 1 that the kernel has: it finds
# those that have a hierarchy.
_INIT = """
set -eu
read -r pid rest </proc/self/stat
mount -t proc proc /proc
umount --recursive --lazy /sys/fs/cgroup
if [ -z "$HIERARCHIES" ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    for hierarchy in $HIERARCHIES; do
        point=${hierarchy%%:*}
        mkdir "$point"
        mount -t cgroup -o "${hierarchy#*:}" cgroup "$point"
    done
    awk '$2 != 0' /proc/cgroups >"$FOLDER/cgroups"
    mount --bind "$FOLDER/cgroups" /proc/cgroups
fi
for folder in /var/lib /var/log; do mount -t tmpfs tmpfs "$folder"; done
touch /dev/kmsg
mount --bind /dev/null /dev/kmsg
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \\
        kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=$FOLDER/$(echo "${setting%=*}" | tr / .)
    echo "${setting#*=}" >"$file"
    mount --bind "$file" "/proc/sys/${setting%=*}"
done
echo "$pid"
exec cat >/dev/null
"""
# Runs a command as a process of the node.
_RUN = 'for group in $GROUPS; do echo 0 >"$group/system/cgroup.procs"; done; exec "$@"'


def cgroups(name: str, mounts: str, own: str) -> tuple[list[str], list[str]]:
    """The cgroups of a node, and the mount point and options of each hierarchy of version 1.

    Below this process's own cgroup in version 1, so that its limits hold. In version 2 at the top: there
    can be no controllers below a cgroup with processes. `mounts` is /proc/self/mountinfo, `own`
    /proc/self/cgroup.
    """
    found = [
        (line.split(" ")[4], line.partition(" - ")[2].split(" ")) for line in mounts.splitlines()
    ]
    if any((point, kind[0]) == ("/sys/fs/cgroup", "cgroup2") for point, kind in found):
        return [f"/sys/fs/cgroup/{name}"], []
    paths = dict(line.split(":", 2)[1:] for line in own.splitlines())
    groups, hierarchies = [], []
    for point, (_kind, _, options) in ((p, k) for p, k in found if k[0] == "cgroup"):
        for controllers, path in paths.items():
            if controllers and set(controllers.split(",")) <= set(options.split(",")):
                groups.append(f"{point}{path.rstrip('/')}/{name}")
                hierarchies.append(f"{point}:{controllers}")
    return groups, hierarchies


class Node(Closing):
    """A running container runtime, and a kubelet from `start` to `stop`."""

    def __init__(self, cloud: Cloud, runtime: Runtime, logs: Path) -> None:
        """Start the runtime. The logs stay in `logs`: one for each start of the kubelet."""
        self._cloud = cloud
        shutil.rmtree(logs, ignore_errors=True)
        logs.mkdir(parents=True)
        self._logs = logs
        self.folder = cloud.ns.path(FOLDER)
        (self.folder / "pods").mkdir(parents=True)
        name = f"oke-kubelet-{os.getpid()}"
        groups, hierarchies = cgroups(
            name, Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text()
        )
        self._groups = {"PATH": PATH, "GROUPS": " ".join(groups)}
        self._hold = subprocess.Popen(
            ["sh", "-c", _HOLD],
            env={
                **self._groups,
                "JOIN": _JOIN,
                "INIT": _INIT,
                "FOLDER": FOLDER,
                "HIERARCHIES": " ".join(hierarchies),
                "ENTER": " ".join(cloud.ns.command(())),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._log = self._runtime_log = logs / "runtime.log"
        self._kubelet: subprocess.Popen[bytes] | None = None
        try:
            assert self._hold.stdout is not None
            self._pid = self._hold.stdout.readline().decode().strip()
            if not self._pid:
                raise RuntimeError("the node could not be made; its stderr says why")
            self._start_runtime(runtime)
        except BaseException:
            self.close()
            raise

    def _popen(
        self, argv: Sequence[str], log: Path, env: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a process of the node. Its process group has the id of the returned process."""
        enter = ["nsenter", f"--target={self._pid}", "--mount", "--net", "--pid", "--cgroup", "--"]
        with log.open("ab") as file:
            return subprocess.Popen(
                ["sh", "-euc", _RUN, "sh", *enter, "env", "-u", "GROUPS", *argv],
                env={**self._groups, "TZ": "UTC", **env},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def _start_runtime(self, runtime: Runtime) -> None:
        for path, text in runtime.files.items():
            self._cloud.ns.path(path).write_text(text)
        process = self._popen(
            [runtime.program, *runtime.options], self._runtime_log, {"PATH": runtime.path}
        )
        wait_for(self._runtime_log, runtime.ready, process)

    def start(
        self,
        kubelet: Path,
        providers: bytes,
        bin_dir: Path,
        pods: Mapping[str, str],
        env: Mapping[str, str],
    ) -> None:
        """Start the kubelet with a CredentialProviderConfig and pods. Raises RuntimeError if it ends."""
        (self.folder / "providers.yaml").write_bytes(providers)
        (self.folder / "kubelet.json").write_text(json.dumps(_configuration()))
        for name, image in pods.items():
            self.add(name, image)
        self._log = self._logs / f"kubelet-{len(list(self._logs.iterdir()))}.log"
        argv = [
            str(kubelet),
            f"--config={FOLDER}/kubelet.json",
            f"--hostname-override={NODE}",
            f"--image-credential-provider-config={FOLDER}/providers.yaml",
            f"--image-credential-provider-bin-dir={bin_dir}",
            "--v=5",  # look-ups are logged at 5, events at 3
        ]
        self._kubelet = self._popen(argv, self._log, env)
        wait_for(self._log, b'"Started kubelet"', self._kubelet)
        while self._cloud.client.get(_PODS).status != 200 and self._kubelet.poll() is None:
            time.sleep(0.1)

    def add(self, name: str, image: str) -> None:
        """Add a static pod. It pulls its image at each start."""
        container = {"name": "app", "image": image, "imagePullPolicy": "Always"}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "hostNetwork": True,
                "terminationGracePeriodSeconds": 1,
                "containers": [container],
            },
        }
        # The kubelet watches the folder: it must not see half a file.
        fresh = self.folder / f"{name}.json"
        fresh.write_text(json.dumps(pod))
        fresh.rename(self.folder / "pods" / fresh.name)

    def pods(self) -> dict[str, str]:
        """The state of each pod's container as the kubelet reports it: "running", or why not."""
        answer = self._cloud.client.get(_PODS, timeout=_SLOW_S)
        if answer.status != 200:
            reason = answer.error or answer.status
            raise RuntimeError(f"the kubelet does not answer ({reason}), see {self._log}")
        items = answer.json()["items"] or ()
        return {
            item["metadata"]["name"].removesuffix(f"-{NODE}"): _state(item["status"])
            for item in items
        }

    def wait(self, names: Collection[str], seconds: float) -> bool:
        """Wait until these pods run, and no others exist. False if it takes longer."""
        end = time.monotonic() + seconds
        while self.pods() != dict.fromkeys(names, "running"):
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True

    def logs(self) -> tuple[str, str]:
        """The log of the kubelet since its start, and the log of the runtime."""
        return self._log.read_text(), self._runtime_log.read_text()

    def stop(self) -> None:
        """Remove the pods and stop the kubelet."""
        for pod in (self.folder / "pods").iterdir():
            pod.unlink()
        if not self.wait((), _SLOW_S):
            raise RuntimeError(f"pods are left: {self.pods()}")
        assert self._kubelet is not None
        os.killpg(self._kubelet.pid, signal.SIGTERM)
        self._kubelet.wait(_SLOW_S)

    def close(self) -> None:
        """End all processes of the node, and remove its cgroups."""
        assert self._hold.stdin is not None and self._hold.stdout is not None
        self._hold.stdin.close()
        self._hold.stdout.close()
        if self._hold.wait(_SLOW_S):
            raise RuntimeError(f"cgroups are left: {self._groups['GROUPS']}")


def _configuration() -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "staticPodPath": f"{FOLDER}/pods",
        "containerRuntimeEndpoint": f"unix://{SOCKET}",
        "cgroupDriver": "cgroupfs",
        "volumePluginDir": f"{FOLDER}/plugins",
        # Without an API server.
        "authentication": {"anonymous": {"enabled": False}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "address": "127.0.0.1",
        "readOnlyPort": 10255,
        # All pulls at once.
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "maxPods": 1000,
        # Whatever the machine has.
        "failSwapOn": False,
        "failCgroupV1": False,
        "evictionHard": {"memory.available": "0%"},
        "imageGCHighThresholdPercent": 100,
    }


def _state(status: Mapping[str, Any]) -> str:
    for container in status.get("containerStatuses", ()):
        for state, fields in container["state"].items():
            return str(fields.get("reason", state))
    return "pending"
