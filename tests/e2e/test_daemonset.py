"""daemonset.yaml: its containers, with the files of the image, started by runc with the manifest's permissions."""

import copy
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from provider import __version__
from tests.e2e.test_cloud_init import CONFIG
from tests.e2e.test_install import ALIAS, EXECUTABLE, NAME, OLD, newer_version, state
from tests.support.built import write_manifest
from tests.support.image import change, image, with_probe
from tests.support.node import EXAMPLES, Node, Run, World

DAEMONSET = yaml.safe_load((EXAMPLES / "daemonset.yaml").read_text())
KUSTOMIZATION = yaml.safe_load((EXAMPLES / "kustomization.yaml").read_text())
POD = DAEMONSET["spec"]["template"]["spec"]
(INSTALL,) = POD["initContainers"]
(INSTALLED,) = POD["containers"]
WORLD = World({}, None)  # the container uses no network
LINK = f"usr/local/bin/{NAME}"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "node")


def bundle(folder: Path, container: Mapping[str, Any] = INSTALL) -> Path:
    sources = {"host": "set by the node", "tmp": str(folder / "tmp")}
    return image().bundle(folder, POD, container, sources)


def install(node: Node, folder: Path, *options: str) -> Run:
    """Start the init container as the kubelet would."""
    made = bundle(folder)
    change(made, [*INSTALL["args"], *options])
    return node.run_container(WORLD, made)


def run_probe(node: Node, folder: Path, *args: str) -> Run:
    """Start the init container with the probe in place of the binary."""
    return node.run_container(WORLD, with_probe(bundle(folder), *args))


def inventory(run: Run) -> str:
    """The only line that says which version the node has, without the node's name."""
    (line,) = re.findall(rf"^{NAME} node=10\.0\.0\.7 (.*)$", run.stderr, re.MULTILINE)
    return str(line)


def files(node: Node) -> dict[str, Sequence[object]]:
    """All that the node's disk has below /usr/local and /etc/kubernetes."""
    tops = (node.path("usr/local"), node.path("etc/kubernetes"))
    return {str(path): state(path) for top in tops for path in sorted(top.rglob("*"))}


def older_version(node: Node) -> str:
    """Install OLD on the node. Returns the path to which the link leads."""
    folder = f"usr/local/lib/{NAME}/{OLD}"
    node.program(f"{folder}/{EXECUTABLE}", f'#!/bin/sh\necho "{NAME} {OLD}"\n')
    write_manifest(node.path(folder))
    node.path(LINK).parent.mkdir(parents=True, exist_ok=True)
    node.path(LINK).symlink_to(f"/{folder}/{EXECUTABLE}")
    return f"/{folder}/{EXECUTABLE}"


# ---- install -------------------------------------------------------------------------------------


def test_it_installs_on_the_host_and_a_second_run_changes_nothing(
    node: Node, tmp_path: Path
) -> None:
    run = install(node, tmp_path / "first")
    assert run.returncode == 0, run.stderr
    assert inventory(run) == f"version={__version__} state=installed"
    done = node.run(WORLD, f"{NAME} version; {ALIAS} version")
    assert done.stderr.count(f"{NAME} {__version__}") == 2, done.stderr
    assert node.path(CONFIG).exists()
    before = files(node)
    again = install(node, tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert inventory(again) == f"version={__version__} state=unchanged"
    assert files(node) == before


def test_an_upgrade_switches_and_keeps_the_version_before(node: Node, tmp_path: Path) -> None:
    old = older_version(node)
    run = install(node, tmp_path / "run")
    assert run.returncode == 0, run.stderr
    assert inventory(run) == f"version={__version__} state=installed"
    assert __version__ in os.readlink(node.path(LINK))
    assert node.path(old[1:]).exists()


def test_a_failed_installation_keeps_the_old_version_and_fails_the_pod(
    node: Node, tmp_path: Path
) -> None:
    old = older_version(node)
    node.write(CONFIG, "kind: CredentialProviderConfig\n")  # the kubelet would not start with it
    before = files(node)
    run = install(node, tmp_path / "run")
    assert run.returncode == 73
    assert "the kubelet would not start with" in run.stderr  # kubectl logs shows it
    assert inventory(run) == f"version={OLD} state=failed cause=cannot-install"
    assert os.readlink(node.path(LINK)) == old
    assert files(node) == before


def test_an_older_daemonset_does_not_downgrade_a_node_unless_it_says_so(
    node: Node, tmp_path: Path
) -> None:
    link = newer_version(node)
    run = install(node, tmp_path / "older")
    assert run.returncode == 78
    assert inventory(run) == "version=9.9.9 state=failed cause=newer-installed"
    assert "9.9.9" in os.readlink(link)
    run = install(node, tmp_path / "rollback", "--allow-downgrade")
    assert run.returncode == 0, run.stderr
    assert inventory(run) == f"version={__version__} state=installed"
    assert __version__ in os.readlink(link)


def test_the_options_of_install_are_the_daemonsets_settings(node: Node, tmp_path: Path) -> None:
    node.write("etc/kubelet/config.yaml", MERGED)
    options = ("--realm", "oc19", "--merge=/etc/kubelet/config.yaml", "--bin-dir=/usr/local/bin")
    node.program("usr/local/bin/ecr-credential-provider", "#!/bin/sh\n")
    run = install(node, tmp_path / "run", *options)
    assert run.returncode == 0, run.stderr
    merged = node.path("etc/kubelet/config.yaml").read_text()
    assert merged.startswith(MERGED) and "oraclecloud.eu" in merged
    assert not node.path(CONFIG).exists()


MERGED = """\
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: ecr-credential-provider
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    defaultCacheDuration: 1m
    matchImages: ["*.dkr.ecr.*.amazonaws.com"]
"""


# ---- the container and its host ------------------------------------------------------------------


def test_it_is_root_on_the_node(node: Node, tmp_path: Path) -> None:
    """As in SECURITY.md and README.md: users who can change the image can write anywhere."""
    node.write("etc/cron.d/.keep", "")
    run = run_probe(node, tmp_path / "run", "own", "/etc/cron.d/owned")
    assert (run.returncode, run.stderr) == (0, "0\n")
    owned = node.path("etc/cron.d/owned").stat()
    assert (owned.st_uid, owned.st_mode & 0o7777) == (0, 0o4755)
    [host] = [volume["hostPath"] for volume in POD["volumes"] if "hostPath" in volume]
    assert host["path"] == "/"
    for text in ("README.md", "daemonset.yaml"):
        assert "root on every node" in (EXAMPLES / text).read_text()
    security = (EXAMPLES.parents[1] / "SECURITY.md").read_text()
    assert "root on every node" in " ".join(security.split())


def test_the_program_gets_its_arguments_and_nothing_of_the_pods_environment(
    node: Node, tmp_path: Path
) -> None:
    """KUBERNETES_SERVICE_HOST, which each pod has, is one of the program's settings."""
    run = run_probe(node, tmp_path / "run", "check", "an image")
    assert run.stderr.splitlines() == [
        f"argument {NAME}",
        "argument check",
        "argument an image",
        "variable PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "variable NODE_NAME=10.0.0.7",
    ]


def test_it_runs_and_unpacks_nothing_where_other_users_of_the_node_can_write(
    node: Node, tmp_path: Path
) -> None:
    """Files with the names of the image's files are not run. The host's /tmp is not used at all."""
    for folder in ("", "tmp/", "var/tmp/"):
        for name in (NAME, "enter-host"):
            node.program(f"{folder}{name}", "#!/bin/sh\necho planted\n")
    run = install(node, tmp_path / "run")
    assert run.returncode == 0, run.stderr
    assert "planted" not in run.stderr
    names = {path.name for top in ("tmp", "var/tmp", "run") for path in node.path(top).glob("*")}
    assert names <= {NAME, "enter-host"}


def test_the_folder_for_temporary_files_is_sticky(node: Node, tmp_path: Path) -> None:
    """The kubelet makes an emptyDir with mode 0777. The launcher unpacks nothing in such a folder."""
    assert run_probe(node, tmp_path / "run", "mode", "/tmp").stderr == "1777\n"


def test_a_failure_to_enter_the_host_is_in_the_inventory(node: Node, tmp_path: Path) -> None:
    container = copy.deepcopy(INSTALL)
    container["securityContext"]["capabilities"]["add"] = []
    run = node.run_container(WORLD, bundle(tmp_path / "run", container))
    assert run.returncode == 1
    assert "cannot-enter-host: Operation not permitted" in run.stderr
    assert inventory(run) == "version=unknown state=failed cause=cannot-enter-host"


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        (("exit", "71"), 71, "version=unknown state=failed cause=cannot-unpack"),
        (("die",), 137, "version=unknown state=failed cause=killed"),
        (("exit", "5"), 5, None),
    ],
)
def test_what_cannot_report_itself_is_in_the_inventory(
    node: Node, tmp_path: Path, args: Sequence[str], code: int, line: str | None
) -> None:
    run = run_probe(node, tmp_path / "run", *args)
    assert run.returncode == code
    assert (inventory(run) if line else run.stderr) == (line or "")


# ---- the manifest --------------------------------------------------------------------------------


def test_it_asks_for_no_more_than_it_needs() -> None:
    assert not POD["automountServiceAccountToken"]
    assert INSTALL["securityContext"]["capabilities"]["add"] == ["SYS_CHROOT"]
    for container in (INSTALL, INSTALLED):
        assert not container["securityContext"].get("privileged")
        assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert not {"hostPID", "hostIPC", "hostNetwork", "serviceAccountName"} & POD.keys()
    assert "volumeMounts" not in INSTALLED


def test_the_rollout_is_careful() -> None:
    spec = DAEMONSET["spec"]
    assert spec["updateStrategy"]["rollingUpdate"] == {"maxUnavailable": "5%"}
    assert spec["minReadySeconds"] >= 5
    assert KUSTOMIZATION["resources"] == ["daemonset.yaml"]


def test_all_manifests_have_the_image_of_this_version() -> None:
    name = f"ghcr.io/oracle-devrel/oke-credential-provider-for-ocir:{__version__}"
    for manifest in ("daemonset.yaml", "check.yaml"):
        text = (EXAMPLES / manifest).read_text()
        assert re.findall(r"image: (\S+)", text) == [name, name]


def test_the_selector_finds_the_pods() -> None:
    labels = DAEMONSET["spec"]["template"]["metadata"]["labels"]
    assert DAEMONSET["spec"]["selector"]["matchLabels"] == labels
