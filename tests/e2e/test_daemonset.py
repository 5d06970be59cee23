"""daemonset.yaml: its container, started by runc with the manifest's permissions on a node."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.test_cloud_init import (
    CONFIG,
    FAILS,
    INSTALLS,
    VALIDATE,
    VERSION,
    provider_calls,
    world,
)
from tests.support.node import EXAMPLES, Node, Run, World

DAEMONSET = yaml.safe_load((EXAMPLES / "daemonset.yaml").read_text())
KUSTOMIZATION = yaml.safe_load((EXAMPLES / "kustomization.yaml").read_text())
POD = DAEMONSET["spec"]["template"]["spec"]
(INSTALL,) = POD["initContainers"]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path / "node")
    node.machine("x86_64")
    return node


def run_install(node: Node, world: World, folder: Path, script: Path = EXAMPLES) -> Run:
    """Start the init container as the kubelet would, with the permissions in the manifest."""
    bundle = folder / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    subprocess.run(["runc", "spec", "--bundle", str(bundle)], check=True)
    spec: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    context = INSTALL["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    capabilities = [f"CAP_{name}" for name in context["capabilities"]["add"]]
    spec["process"].update(
        terminal=False,
        args=INSTALL["command"],
        user={"uid": context["runAsUser"], "gid": 0},
        noNewPrivileges=not context["allowPrivilegeEscalation"],
        capabilities=dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
    )
    [name] = INSTALL["env"]
    assert name == {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    spec["process"]["env"].append("NODE_NAME=10.0.0.7")
    spec["root"]["readonly"] = context["readOnlyRootFilesystem"]
    assert POD["hostNetwork"]
    namespaces = spec["linux"]["namespaces"]
    spec["linux"]["namespaces"] = [each for each in namespaces if each["type"] != "network"]
    sources = {"host": "set by the node", "script": str(script)}
    for mount in INSTALL["volumeMounts"]:
        spec["mounts"].append(
            {
                "destination": mount["mountPath"],
                "type": "bind",
                "source": sources[mount["name"]],
                "options": ["rbind", "rslave", "ro" if mount.get("readOnly") else "rw"],
            }
        )
    (bundle / "config.json").write_text(json.dumps(spec))
    return node.run_container(world, bundle)


def inventory(run: Run) -> str:
    """The last line that says which version the node has, without the node's name."""
    lines = re.findall(r"^oke-credential-provider node=10\.0\.0\.7 (.*)$", run.stderr, re.MULTILINE)
    return str(lines[-1])


def test_installs_on_the_host_and_joins_nothing(node: Node, tmp_path: Path) -> None:
    run = run_install(node, world(), tmp_path)
    assert run.returncode == 0, run.stderr
    assert provider_calls(node) == [["install"], VALIDATE]
    assert node.path("usr/local/bin/oke-credential-provider").exists()
    assert node.path(CONFIG).exists()
    assert node.calls("oke-init") == []


def test_it_is_root_on_the_node(node: Node, tmp_path: Path) -> None:
    """As in SECURITY.md and README.md: users who can change the script can write anywhere."""
    (tmp_path / "cloud-init.sh").write_text(
        "mkdir -p /etc/cron.d && id -u >/etc/cron.d/owned && chmod 4755 /etc/cron.d/owned"
    )
    run = run_install(node, world(), tmp_path / "run", tmp_path)
    assert run.returncode == 0, run.stderr
    owned = node.path("etc/cron.d/owned")
    assert owned.read_text() == "0\n"
    assert (owned.stat().st_uid, owned.stat().st_mode & 0o7777) == (0, 0o4755)
    [host] = [volume["hostPath"] for volume in POD["volumes"] if "hostPath" in volume]
    assert host["path"] == "/"
    for text in ("README.md", "daemonset.yaml"):
        assert "root on every node" in (EXAMPLES / text).read_text()
    security = (EXAMPLES.parents[1] / "SECURITY.md").read_text()
    assert "root on every node" in " ".join(security.split())


def test_a_failed_installation_fails_the_pod(node: Node, tmp_path: Path) -> None:
    run = run_install(node, world(FAILS), tmp_path)
    assert run.returncode == 1
    assert "the self-test failed" in run.stderr  # kubectl logs shows it
    assert inventory(run) == "version=none state=failed cause=install-exit-1"


def test_a_node_that_has_the_version_downloads_nothing(node: Node, tmp_path: Path) -> None:
    node.program("usr/local/bin/oke-credential-provider", INSTALLS)
    node.write(CONFIG, "kind: CredentialProviderConfig\n")
    run = run_install(node, world(None), tmp_path)
    assert run.returncode == 0
    assert f"{VERSION} is already installed" in run.stderr
    assert inventory(run) == "version=none state=unchanged"


def test_a_failed_download_is_in_the_inventory(node: Node, tmp_path: Path) -> None:
    run = run_install(node, world(None), tmp_path)
    assert run.returncode == 1
    assert inventory(run) == "version=none state=failed cause=download"


def test_a_config_that_the_kubelet_cannot_use_is_in_the_inventory(
    node: Node, tmp_path: Path
) -> None:
    run = run_install(node, world(INSTALLS.replace("config) ;;", "config) exit 1 ;;")), tmp_path)
    assert run.returncode == 1
    assert inventory(run) == "version=none state=failed cause=config"


def test_asks_for_no_more_than_it_needs() -> None:
    assert not POD["automountServiceAccountToken"]
    for container in (*POD["initContainers"], *POD["containers"]):
        assert not container["securityContext"].get("privileged")
        assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert not {"hostPID", "hostIPC", "serviceAccountName"} & POD.keys()


def test_the_kustomization_makes_what_the_daemonset_mounts() -> None:
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    mounted = [v["configMap"]["name"] for v in POD["volumes"] if "configMap" in v]
    assert mounted == [generated["name"]]
    assert generated["files"] == ["cloud-init.sh"]
    assert KUSTOMIZATION["resources"] == ["daemonset.yaml"]
    assert f"/script/{generated['files'][0]}" in INSTALL["command"][-1]


def test_the_selector_finds_the_pods() -> None:
    labels = DAEMONSET["spec"]["template"]["metadata"]["labels"]
    assert DAEMONSET["spec"]["selector"]["matchLabels"] == labels
