"""check.yaml: its containers, started by runc with the manifest's permissions on a node."""

import copy
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cloud.harness import Cloud
from tests.cloud.model import Iam
from tests.e2e.test_daemonset import INSTALLED
from tests.support.image import image, with_probe
from tests.support.node import EXAMPLES
from tests.support.worker import ALONE, BIN_DIR, FLAGS, FOLDER, IMAGE, KUBELET, NAME, Node
from tests.support.worker import node as node  # the fixture

TEXT = (EXAMPLES / "check.yaml").read_text()
MANIFEST = yaml.safe_load(TEXT.replace("${IMAGE}", IMAGE))
POD = MANIFEST["spec"]["template"]["spec"]
(CHECK,) = POD["initContainers"]
(READY,) = POD["containers"]
PLACE = f"{FOLDER}/pod"

# The init container decides: if it fails, the kubelet does not start the other one. The mode of the
# emptyDir is that of the kubelet.
KUBELETS_WORK = f"""
mount -t tmpfs -o mode=777 tmpfs {PLACE}/tmp
runc --root {PLACE}/runc run --bundle {PLACE}/check check >{FOLDER}/log 2>&1
echo $? >{FOLDER}/code
"""


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod whose init container has run: its log, and whether the other container starts."""

    log: str
    ready: bool


@dataclass(frozen=True, slots=True)
class Worker:
    """A node and the bundle of the init container."""

    cloud: Cloud
    node: Node
    bundle: Path

    def apply(self) -> Pod:
        """Run the pod."""
        lines = [
            self.node.before,
            f"env -i {KUBELET} {shlex.join(FLAGS)} &",
            f'until [ "$(readlink /proc/$!/exe)" = {KUBELET} ]; do sleep 0.01; done',
            KUBELETS_WORK,
        ]
        self.cloud.ns.run([*ALONE, "bash", "-c", "\n".join(lines)], timeout=120).check()
        log, code = (self.cloud.ns.path(f"{FOLDER}/{name}").read_text() for name in ("log", "code"))
        return Pod(log, code == "0\n")


@pytest.fixture
def worker(cloud: Cloud, node: Node) -> Worker:
    place = cloud.ns.path(PLACE)
    for name in ("check/rootfs", "tmp"):
        (place / name).mkdir(parents=True)
    bundle = image().bundle(place / "check", POD, CHECK, {"host": "/", "tmp": f"{PLACE}/tmp"})
    return Worker(cloud, node, bundle)


def test_a_node_that_can_pull_is_ready(worker: Worker) -> None:
    pod = worker.apply()
    assert pod.ready, pod.log
    assert f"for {IMAGE}" in pod.log
    assert "Failed" not in pod.log


def test_a_denied_node_is_not_ready_and_logs_the_statement(worker: Worker) -> None:
    worker.cloud.control.iam(Iam(policies=()))
    pod = worker.apply()
    assert not pod.ready
    assert "Failed: pull." in pod.log
    statement = "Allow dynamic-group oke-nodes to read repos in tenancy"
    assert statement in [line.strip() for line in pod.log.splitlines()]


def test_a_node_whose_kubelet_does_not_use_the_provider_is_not_ready(worker: Worker) -> None:
    """The container sees the kubelet of the host: its command line, its executable, its version."""
    worker.node.config("apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n")
    pod = worker.apply()
    assert not pod.ready
    assert "Failed: provider config." in pod.log


def test_a_node_without_the_installed_program_is_not_ready(worker: Worker) -> None:
    worker.cloud.ns.path(f"{BIN_DIR}/{NAME}").unlink()
    pod = worker.apply()
    assert not pod.ready
    assert f"{BIN_DIR}/{NAME}" in pod.log


def test_nothing_stays_privileged() -> None:
    """What stays is the container of daemonset.yaml that test_installer_image.py runs."""
    assert {**READY, "name": ""} == {**INSTALLED, "name": ""}
    assert not {"hostPID", "hostIPC", "serviceAccountName"} & POD.keys()
    assert not POD["automountServiceAccountToken"]


def test_the_host_is_mounted_read_only(worker: Worker) -> None:
    with_probe(worker.bundle, "own", f"/etc/{NAME}-owned")
    assert worker.apply().log == "Read-only file system\n"


def test_a_malicious_image_could_write_to_the_host_all_the_same(worker: Worker) -> None:
    """As SECURITY.md says: /proc/PID/root leads to the host's root, which is not read-only there."""
    with_probe(worker.bundle, "own", f"/proc/1/root{FOLDER}/owned")
    assert worker.apply().log == "0\n"
    assert worker.cloud.ns.path(f"{FOLDER}/owned").stat().st_mode & 0o7777 == 0o4755
    assert "/proc/PID/root" in (EXAMPLES.parents[1] / "SECURITY.md").read_text()


def test_without_a_right_of_the_manifest_the_check_fails(worker: Worker) -> None:
    """It asks for no capability that it does not need."""
    container = copy.deepcopy(CHECK)
    container["securityContext"]["capabilities"]["add"] = ["SYS_CHROOT"]
    shutil.rmtree(worker.bundle / "rootfs")
    image().bundle(worker.bundle, POD, container, {"host": "/", "tmp": f"{PLACE}/tmp"})
    pod = worker.apply()
    assert not pod.ready
    assert "kubelet" in pod.log


def test_envsubst_sets_only_the_image() -> None:
    assert TEXT.count("${IMAGE}") == 1
    assert CHECK["args"] == ["check", IMAGE]
    labels = MANIFEST["spec"]["template"]["metadata"]["labels"]
    assert MANIFEST["spec"]["selector"]["matchLabels"] == labels
