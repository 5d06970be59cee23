"""enable.yaml: the DaemonSet that it makes, and its containers on a node with a real systemd."""

import copy
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from provider import __version__
from tests.e2e.test_daemonset import DAEMONSET
from tests.e2e.test_enable import DROP_IN, FLAGS, OWN, assert_settled, wait_for
from tests.e2e.test_install import NAME
from tests.support.image import change, image
from tests.support.node import EXAMPLES
from tests.support.systemd_machine import Machine

PATCH = yaml.safe_load((EXAMPLES / "enable.yaml").read_text())


def patched(document: Any) -> Any:
    """What `kubectl patch --type=json` makes of it (RFC 6902: only the operations of this file)."""
    document = copy.deepcopy(document)
    for step in PATCH:
        target, key = _find(document, step["path"])
        if step["op"] == "copy":
            source, name = _find(document, step["from"])
            target.insert(key, copy.deepcopy(source[name]))
        elif isinstance(target, list):
            assert (step["op"], key) == ("add", len(target))
            target.append(step["value"])
        else:
            assert step["op"] == "add" or (step["op"] == "replace" and key in target)
            target[key] = step["value"]
    return document


def _find(document: Any, path: str) -> tuple[Any, Any]:
    """The list or mapping that holds the value at a path, and its key there."""
    *parents, last = path.split("/")[1:]
    for name in parents:
        document = document[int(name) if isinstance(document, list) else name]
    if isinstance(document, list):
        return document, len(document) if last == "-" else int(last)
    return document, last


ENABLED = patched(DAEMONSET)
POD = ENABLED["spec"]["template"]["spec"]
INSTALL, ENABLE = POD["initContainers"]


# ---- the manifest --------------------------------------------------------------------------------


def test_it_changes_one_node_after_the_other_and_nothing_else() -> None:
    assert ENABLED["spec"]["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": 1}
    assert DAEMONSET["spec"]["template"]["spec"]["initContainers"] == [INSTALL]
    restored = copy.deepcopy(ENABLED)
    del restored["spec"]["template"]["spec"]["initContainers"][1]
    del restored["spec"]["template"]["spec"]["hostNetwork"]
    del restored["spec"]["template"]["spec"]["hostPID"]
    restored["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1
    restored["spec"]["updateStrategy"]["rollingUpdate"] = {"maxUnavailable": "5%"}
    assert restored == DAEMONSET


def test_the_additional_rights_are_those_of_this_container_only() -> None:
    assert INSTALL["securityContext"]["capabilities"]["add"] == ["SYS_CHROOT"]
    own = copy.deepcopy(ENABLE["securityContext"])
    assert own.pop("appArmorProfile") == {"type": "Unconfined"}
    own["capabilities"]["add"].remove("SYS_PTRACE")
    assert own == INSTALL["securityContext"]
    assert not {"hostIPC", "serviceAccountName"} & POD.keys()


def test_by_default_it_is_off() -> None:
    active = yaml.safe_load((EXAMPLES / "kustomization.yaml").read_text())
    assert active.keys() == {"apiVersion", "kind", "namespace", "resources"}


# ---- on a node -----------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A node with a kubelet that has no flags, and without the program."""
    machine = Machine(tmp_path / "machine")
    machine.boot().wait_for_kubelet()
    yield machine
    machine.power_off()


def start(machine: Machine, container: dict[str, Any], *args: str) -> subprocess.Popen[bytes]:
    """Start a container on the node, as its kubelet would."""
    name = f"{container['name']}-{len(list(machine.path('opt').glob('pod-*')))}"
    folder = f"opt/pod-{name}"
    (machine.path(folder) / "rootfs").mkdir(parents=True)
    (machine.path(folder) / "tmp").mkdir()
    sources = {"host": "/", "tmp": f"/{folder}/tmp"}
    change(image().bundle(machine.path(folder), POD, container, sources), args)
    machine.run("mount", "-t", "tmpfs", "-o", "mode=777", "tmpfs", f"/{folder}/tmp").check()
    return machine.popen("runc", "--root", "/run/pods", "run", "--bundle", f"/{folder}", name)


def run(machine: Machine, container: dict[str, Any], *args: str) -> tuple[int, str]:
    """The exit code and the log of a container that ends."""
    process = start(machine, container, *(args or container["args"]))
    stdout, stderr = process.communicate(timeout=150)
    return process.returncode, (stdout + stderr).decode()


def test_install_and_enable_switch_the_kubelet_on_and_a_second_pod_changes_nothing(
    machine: Machine,
) -> None:
    assert run(machine, INSTALL)[0] == 0
    assert machine.command_line == [OWN]
    code, log = run(machine, ENABLE, "enable", "--watch", "1")
    assert code == 0, log
    assert "4 of 4 containers still run" in log
    assert f"{NAME} node=10.0.0.7 version={__version__} state=enabled" in log
    assert machine.command_line == [OWN, *FLAGS]
    assert_settled(machine)
    pid = machine.kubelet_pid
    code, log = run(machine, ENABLE)
    assert (code, machine.kubelet_pid) == (0, pid), log
    assert "already enabled" in log
    assert f"{NAME} node=10.0.0.7 version={__version__} state=unchanged" in log


def test_a_kubelet_that_does_not_come_up_is_rolled_back_and_the_pod_stays_without_success(
    machine: Machine,
) -> None:
    assert run(machine, INSTALL)[0] == 0
    machine.misbehave(healthz="fails")
    process = start(machine, ENABLE, "enable", "--watch", "1", "--timeout", "3")
    assert process.stderr is not None
    log = []
    for line in process.stderr:
        log.append(line.decode())
        if "delete the pod" in log[-1]:
            break
    assert any("rolled-back: the kubelet did not stay healthy" in line for line in log), log
    assert process.poll() is None  # the kubelet would start an ended container again
    assert machine.command_line == [OWN]
    assert DROP_IN not in machine.drop_ins
    machine.wait_for_kubelet()
    assert_settled(machine)
    (name,) = re.findall(r"enable-\d+", machine.run("ls", "/run/pods").stdout)
    machine.run("runc", "--root", "/run/pods", "kill", name, "TERM").check()
    stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 76
    assert f"version={__version__} state=failed cause=rolled-back" in stdout.decode()


def test_a_refusal_changes_nothing_and_ends_the_container(machine: Machine) -> None:
    pid = machine.kubelet_pid
    code, log = run(machine, ENABLE)
    assert code == 75, log
    assert f"{NAME} node=10.0.0.7 version=none state=failed cause=cannot-enable" in log
    assert machine.kubelet_pid == pid


def test_a_pod_that_is_deleted_during_a_trial_is_rolled_back(machine: Machine) -> None:
    assert run(machine, INSTALL)[0] == 0
    process = start(machine, ENABLE, "enable")
    wait_for(lambda: machine.command_line == [OWN, *FLAGS])
    (name,) = re.findall(r"enable-\d+", machine.run("ls", "/run/pods").stdout)
    machine.run("runc", "--root", "/run/pods", "kill", name, "TERM").check()
    assert process.wait(timeout=POD["terminationGracePeriodSeconds"]) == 76
    assert machine.command_line == [OWN]
    assert_settled(machine)
