"""check.yaml: its containers, started by runc with the manifest's permissions on a node."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.cloud.harness import Cloud
from tests.cloud.model import Iam
from tests.conftest import Program
from tests.support.container import runc_spec
from tests.support.node import EXAMPLES
from tests.support.worker import ALONE, FLAGS, FOLDER, IMAGE, KUBELET, NAME, Node
from tests.support.worker import node as node  # the fixture

TEXT = (EXAMPLES / "check.yaml").read_text()
MANIFEST = yaml.safe_load(TEXT.replace("${IMAGE}", IMAGE))
POD = MANIFEST["spec"]["template"]["spec"]
(CHECK,) = POD["initContainers"]
(RESULT,) = POD["containers"]
PLACE = f"{FOLDER}/pod"
# Permissions and mounts of a process in the container.
INSIDE = (
    "grep -E '^(Uid|CapPrm|CapEff|CapBnd):' /proc/self/status; cut -d' ' -f5 /proc/self/mountinfo"
)

# Starts the containers one after the other, as the kubelet does.
KUBELETS_WORK = f"""
mount -t tmpfs tmpfs {PLACE}
mkdir {PLACE}/result && chmod 777 {PLACE}/result
for name in check result; do
    mkdir -p {PLACE}/$name/rootfs {PLACE}/$name/upper {PLACE}/$name/work
    cp {FOLDER}/$name.json {PLACE}/$name/config.json
    mount -t overlay -o "lowerdir=/,upperdir={PLACE}/$name/upper,workdir={PLACE}/$name/work" \\
        overlay {PLACE}/$name/rootfs
done
runc="runc --root {PLACE}/runc"
$runc run --bundle {PLACE}/check check >{FOLDER}/init.log 2>&1 || exit
$runc run --detach --bundle {PLACE}/result result >{FOLDER}/result.log 2>&1 </dev/null || exit
until [ -s {FOLDER}/result.log ]; do sleep 0.05; done
$runc exec result {shlex.join(RESULT["readinessProbe"]["exec"]["command"])}
echo $? >{FOLDER}/probe
$runc exec result sh -c {shlex.quote(INSIDE)} >{FOLDER}/inside
$runc delete --force result
"""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod that has run: the logs of its containers, its readiness, and facts from inside."""

    init_log: str
    log: str
    ready: bool
    inside: str


@dataclass(frozen=True, slots=True)
class Worker:
    """A node with the program in /usr/local/bin, as `install` leaves it."""

    cloud: Cloud
    node: Node

    def apply(self, program: str | None, check: Mapping[str, Any] = CHECK) -> Pod:
        """Run the pod. `program`: the file in /usr/local/bin; None: there is none."""
        path = f"/usr/local/bin/{NAME}"
        self.node.add_files({path: program or ""})
        for container in (check, RESULT):
            sources = {"host": "/", "result": f"{PLACE}/result"}
            spec = runc_spec(POD, container, sources)
            self.node.write(f"{FOLDER}/{container['name']}.json", json.dumps(spec))
        self.cloud.ns.path(PLACE).mkdir()
        lines = [
            self.node.before,
            f"chmod 755 {path}" if program else f"rm {path}",
            f"env -i {KUBELET} {shlex.join(FLAGS)} &",
            f'until [ "$(readlink /proc/$!/exe)" = {KUBELET} ]; do sleep 0.01; done',
            KUBELETS_WORK,
        ]
        self.cloud.ns.run([*ALONE, "bash", "-c", "\n".join(lines)], timeout=90).check()
        names = ("init.log", "result.log", "probe", "inside")
        init, log, probe, inside = (self.cloud.ns.path(f"{FOLDER}/{n}").read_text() for n in names)
        return Pod(init, log, probe == "0\n", inside)


@pytest.fixture
def worker(cloud: Cloud, node: Node) -> Worker:
    return Worker(cloud, node)


@pytest.fixture
def program_file(program: Program) -> str:
    exports = "".join(f"export {n}={shlex.quote(v)}\n" for n, v in program.env.items())
    return f'#!/bin/sh\n{exports}exec {shlex.join(program.argv)} "$@"\n'


def test_a_node_that_can_pull_is_ready(worker: Worker, program_file: str) -> None:
    pod = worker.apply(program_file)
    assert pod.ready, pod.log
    assert f"for {IMAGE}" in pod.log
    assert "Failed" not in pod.log
    assert pod.init_log == pod.log


def test_a_denied_node_is_not_ready_and_logs_the_statement(
    worker: Worker, program_file: str
) -> None:
    worker.cloud.control.iam(Iam(policies=()))
    pod = worker.apply(program_file)
    assert not pod.ready
    assert "Failed: pull." in pod.log
    statement = "Allow dynamic-group oke-nodes to read repos in tenancy"
    assert statement in [line.strip() for line in pod.log.splitlines()]


def test_a_node_whose_kubelet_does_not_use_the_provider_is_not_ready(
    worker: Worker, program_file: str
) -> None:
    """The container sees the kubelet of the host: its command line, its executable, its version."""
    worker.node.config("apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n")
    pod = worker.apply(program_file)
    assert not pod.ready
    assert "Failed: provider config." in pod.log


def test_a_node_without_the_program_is_not_ready(worker: Worker) -> None:
    pod = worker.apply(None)
    assert not pod.ready
    assert "oke-credential-provider is not installed on this node." in pod.log


def test_a_check_that_hangs_is_not_ready(worker: Worker) -> None:
    shell, c, script, *rest = CHECK["command"]
    assert script.count("timeout 120") == 1
    hurried = {**CHECK, "command": [shell, c, script.replace("timeout 120", "timeout 1"), *rest]}
    pod = worker.apply("#!/bin/sh\nsleep 60\n", hurried)
    assert not pod.ready
    assert "The check did not end within 120 seconds." in pod.log


def test_nothing_stays_privileged(worker: Worker) -> None:
    """Nothing but the result is left: the user nobody, no capability, no file of the host."""
    pod = worker.apply("#!/bin/sh\necho checked\n")
    assert pod.ready
    *status, mounts = pod.inside.split("\n", 4)
    assert [line.split()[1] for line in status] == ["65534", *["0" * 16] * 3]
    assert "/result" in mounts.split()
    assert "/host" not in mounts.split()
    assert [mount["name"] for mount in RESULT["volumeMounts"]] == ["result"]
    assert not {"hostPID", "hostIPC", "serviceAccountName"} & POD.keys()
    assert not POD["automountServiceAccountToken"]


def test_the_host_is_mounted_read_only(worker: Worker) -> None:
    pod = worker.apply("#!/bin/sh\ntouch /owned && echo written\nexit 1\n")
    assert "written" not in pod.log
    assert "Read-only file system" in pod.log


def test_envsubst_sets_only_the_image() -> None:
    assert TEXT.count("${IMAGE}") == 1
    assert CHECK["command"][-1] == IMAGE
    labels = MANIFEST["spec"]["template"]["metadata"]["labels"]
    assert MANIFEST["spec"]["selector"]["matchLabels"] == labels
