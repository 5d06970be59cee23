"""cloud-init.sh, run on a node: the node joins, whether or not the installation succeeds."""

import base64
import shutil
from collections.abc import Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support import built
from tests.support.node import EXAMPLES, Node, Run, World, recorder, release, with_variables

SCRIPT = (EXAMPLES / "cloud-init.sh").read_text()
VERSION = "0.1.0"
FOLDER = f"/oracle-devrel/oke-credential-provider-for-ocir/releases/download/v{VERSION}"
ASSET = "oke-credential-provider-for-ocir-linux-amd64"
FLAGS = (
    "--image-credential-provider-bin-dir=/usr/local/bin "
    "--image-credential-provider-config=/etc/kubernetes/credential-provider-config.yaml"
)
CONFIG = "etc/kubernetes/credential-provider-config.yaml"
VALIDATE = ["config", "--validate", f"/{CONFIG}", "--bin-dir", "/usr/local/bin"]
NOT_INSTALLED = "NOT INSTALLED: this node joins without the provider"

# A stand-in for the released binary: records its calls and installs itself.
INSTALLS = recorder(
    "provider",
    f"""
case $1 in
    version) echo "oke-credential-provider {VERSION}"; echo "  commit        none" ;;
    install)
        echo "unpacks in $TMPDIR" >&2
        mkdir -p /etc/kubernetes
        echo "kind: CredentialProviderConfig" >/etc/kubernetes/credential-provider-config.yaml
        cp "$0" /usr/local/bin/oke-credential-provider
        ;;
    config) ;;
    *) exit 2 ;;
esac
""",
)
PINNED = with_variables(SCRIPT, SHA256_AMD64=sha256(INSTALLS.encode()).hexdigest())
FAILS = recorder("provider", 'echo "the self-test failed" >&2\nexit 1\n')


def encoded(script: str) -> str:
    return base64.b64encode(script.encode()).decode()


MANAGED = {"oke_init_script": encoded(recorder("oke-init"))}
SELF_MANAGED = {"apiserver_host": "10.0.0.5", "cluster_ca_cert": "LS0tLS1CRUdJTg=="}
SELF_MANAGED_CALL = (
    "/etc/oke/oke-install.sh",
    *("--apiserver-endpoint", SELF_MANAGED["apiserver_host"]),
    *("--kubelet-ca-cert", SELF_MANAGED["cluster_ca_cert"]),
)


def world(
    program: str | None = INSTALLS, metadata: Mapping[str, str] = MANAGED, arch: str = "amd64"
) -> World:
    """A managed node, and a release whose binary is `program`. None: GitHub is unreachable."""
    asset = f"oke-credential-provider-for-ocir-linux-{arch}"
    return World(metadata, None if program is None else release(FOLDER, {asset: program}))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    node = Node(tmp_path / "node")
    node.machine("x86_64")
    return node


def joined_with(node: Node) -> list[str]:
    """The arguments of the only call of the join script."""
    (call,) = node.calls("oke-init")
    assert call[0] == "/var/run/oke-init.sh"
    return call[1:]


def provider_calls(node: Node) -> list[list[str]]:
    """The arguments of each call of the released program."""
    return [call[1:] for call in node.calls("provider")]


def refused(node: Node, world: World, script: str, said: str = "", called: bool = False) -> Run:
    """Run a script that must not install the provider, and whose log must have the reason."""
    run = node.run(world, script)
    assert run.returncode == 0
    assert_joined_without_provider(node, run.stderr)
    assert said in run.stderr
    assert called or node.calls("provider") == []
    return run


def assert_joined_without_provider(node: Node, log: str) -> None:
    assert joined_with(node) == []
    assert NOT_INSTALLED in log
    assert NOT_INSTALLED in node.console
    assert any(NOT_INSTALLED in call[-1] for call in node.calls("logger"))
    assert not list(node.path("usr/local/lib").glob("*")), "the working directory was not removed"


@pytest.mark.parametrize(("machine", "arch"), [("x86_64", "amd64"), ("aarch64", "arm64")])
def test_installs_its_architecture_and_passes_the_flags(
    node: Node, machine: str, arch: str
) -> None:
    node.machine(machine)
    run = node.run(world(arch=arch), SCRIPT)
    assert run.returncode == 0, run.stderr
    assert joined_with(node) == ["--kubelet-extra-args", FLAGS]
    assert provider_calls(node) == [["install"], VALIDATE]
    assert node.path("usr/local/bin/oke-credential-provider").exists()
    assert node.path(CONFIG).exists()
    assert not list(node.path("usr/local/lib").glob("*")), "the working directory was not removed"
    assert NOT_INSTALLED not in run.stderr + node.console


def test_the_binary_unpacks_to_a_directory_that_allows_execution(node: Node) -> None:
    run = node.run(world(), SCRIPT)
    assert "unpacks in /usr/local/lib/oke-credential-provider." in run.stderr


def test_github_down(node: Node) -> None:
    refused(node, world(None), SCRIPT, "cannot download SHA256SUMS from github.com")
    assert [call[1] for call in node.calls("sleep")] == ["0", "3", "10"]


def test_a_version_that_was_never_released(node: Node) -> None:
    refused(node, world(), with_variables(SCRIPT, VERSION="9.9.9"), "404")


def test_a_server_without_a_trusted_certificate_is_refused(node: Node, tmp_path: Path) -> None:
    other = Node(tmp_path / "other")
    node.write("etc/ssl/certs/ca-certificates.crt", other.authority.cert_pem.bytes().decode())
    refused(node, world(), SCRIPT, "certificate")


def test_checksum_wrong(node: Node) -> None:
    broken = world()
    assert broken.releases is not None
    files = {**broken.releases, f"{FOLDER}/{ASSET}": INSTALLS.encode() + b"\n"}
    said = f"the SHA-256 of {ASSET} is not the one expected"
    refused(node, replace(broken, releases=files), SCRIPT, said)


def test_checksum_not_listed(node: Node) -> None:
    files = {f"{FOLDER}/{ASSET}": INSTALLS.encode(), f"{FOLDER}/SHA256SUMS": b"0" * 64 + b"  x\n"}
    refused(node, World(MANAGED, files), SCRIPT)


def test_a_pinned_checksum_replaces_that_of_the_release(node: Node) -> None:
    run = node.run(world(), PINNED)
    assert joined_with(node) == ["--kubelet-extra-args", FLAGS]
    assert run.requests == (f"{FOLDER}/{ASSET}",)


def test_a_replaced_release_fails_the_pinned_checksum(node: Node) -> None:
    refused(node, world(INSTALLS + "\n# and more\n"), PINNED)


def test_a_checksum_for_another_architecture_alone_installs_nothing(node: Node) -> None:
    other = with_variables(SCRIPT, SHA256_ARM64=sha256(INSTALLS.encode()).hexdigest())
    assert refused(node, world(), other, "no SHA-256 is set for amd64").requests == ()


# Claims to be the released program, and records its calls.
CLAIMS = recorder("claims", f'echo "oke-credential-provider {VERSION}"\n')


def plant(node: Node) -> None:
    """Put a program that claims to be the installed one on the node, and its config."""
    node.program("usr/local/bin/oke-credential-provider", CLAIMS)
    node.write(CONFIG, "kind: CredentialProviderConfig\n")


def test_with_a_pinned_checksum_an_installed_program_is_neither_trusted_nor_run(node: Node) -> None:
    plant(node)
    run = node.run(world(), PINNED)
    assert node.calls("claims") == []
    assert provider_calls(node) == [["install"], VALIDATE], run.stderr
    assert node.path("usr/local/bin/oke-credential-provider").read_text() == INSTALLS
    assert joined_with(node) == ["--kubelet-extra-args", FLAGS]


def test_without_a_verified_program_the_kubelet_gets_no_flags(node: Node) -> None:
    plant(node)
    refused(node, world(None), PINNED)  # GitHub is unreachable
    assert node.calls("claims") == []


@pytest.mark.parametrize("forged", ["a script", "a version's folder", "an additional file"])
def test_the_released_program_replaces_or_refuses_a_forged_one(node: Node, forged: str) -> None:
    """With the built binary: its `install` trusts no existing file either."""
    assert built.exists(), "make binary builds it"
    released = built.one_file().read_bytes()
    own = sha256(built.installed().read_bytes()).hexdigest()
    folder = f"usr/local/lib/oke-credential-provider/{VERSION}"
    if forged == "a script":
        plant(node)
    elif forged == "an additional file":
        shutil.copytree(built.tree(), node.path(folder))
        node.write(f"{folder}/bin/program/_internal/_hashlib.py", "open('/calls/000.claims', 'w')")
    else:
        node.program(f"{folder}/bin/oke-credential-provider", CLAIMS)
        manifest = (built.tree() / "MANIFEST").read_text()
        assert own in manifest
        node.write(f"{folder}/MANIFEST", manifest.replace(own, sha256(CLAIMS.encode()).hexdigest()))
    if forged != "a script":
        link = node.path("usr/local/bin/oke-credential-provider")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"/{folder}/bin/oke-credential-provider")
    files = {f"{FOLDER}/{ASSET}": released}
    pinned = with_variables(SCRIPT, SHA256_AMD64=sha256(released).hexdigest())
    run = node.run(World(MANAGED, files), pinned)
    assert node.calls("claims") == []
    if forged == "a script":
        assert_joined_without_provider(node, run.stderr)
        assert "neither this program nor Oracle's Go provider" in run.stderr
    else:
        assert joined_with(node) == ["--kubelet-extra-args", FLAGS], run.stderr
        target = node.path("usr/local/bin/oke-credential-provider").readlink()
        genuine = node.path(str(target).lstrip("/")).read_bytes()
        assert sha256(genuine).hexdigest() == own
        assert target.parts[-3] != VERSION


ECR = "ecr-credential-provider"


@pytest.mark.parametrize("pinned", [True, False])
def test_the_flags_need_a_config_that_names_the_program(node: Node, pinned: bool) -> None:
    """With such a config the kubelet would start and never call the provider."""
    config = f"""
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: {ECR}
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    defaultCacheDuration: 1m
    matchImages: ["*.dkr.ecr.*.amazonaws.com"]
"""
    node.write(CONFIG, config)
    node.program(f"usr/local/bin/{ECR}", "#!/bin/sh\n")
    released = built.one_file().read_bytes()
    digest = sha256(released).hexdigest()
    files = {f"{FOLDER}/{ASSET}": released, f"{FOLDER}/SHA256SUMS": f"{digest}  {ASSET}\n".encode()}
    script = with_variables(SCRIPT, SHA256_AMD64=digest) if pinned else SCRIPT
    run = node.run(World(MANAGED, files), script)
    assert run.returncode == 0
    assert joined_with(node) == []
    assert f"no entry is for this program; the names: {ECR}" in run.stderr
    assert f"the kubelet cannot use the provider with /{CONFIG}" in run.stderr
    assert NOT_INSTALLED in run.stderr and NOT_INSTALLED in node.console
    run = node.run(World(MANAGED, files), script)
    skipped = f"oke-credential-provider: {VERSION} is already installed" in run.stderr
    assert skipped == (not pinned)
    assert [call[1:] for call in node.calls("oke-init")] == [[], []]
    assert node.path(CONFIG).read_text() == config


def test_the_config_is_validated_by_the_rules_of_the_nodes_kubelet(node: Node) -> None:
    node.program("usr/bin/kubelet", "#!/bin/sh\necho Kubernetes v1.33.5\n")
    run = node.run(world(), SCRIPT)
    assert provider_calls(node)[-1] == [*VALIDATE, "--kubelet-version", "v1.33.5"], run.stderr
    assert joined_with(node) == ["--kubelet-extra-args", FLAGS]


def test_a_directory_in_the_image_instead_of_a_server(node: Node) -> None:
    folder = "usr/local/share/oke-credential-provider"
    node.write(f"{folder}/{ASSET}", INSTALLS)
    local = with_variables(
        SCRIPT, BASE_URL=f"file:///{folder}", SHA256_AMD64=sha256(INSTALLS.encode()).hexdigest()
    )
    run = node.run(world(None), local)
    assert joined_with(node) == ["--kubelet-extra-args", FLAGS], run.stderr
    node.write(f"{folder}/{ASSET}", INSTALLS + "# and more\n")
    node.run(world(None), local)
    assert [call[1:] for call in node.calls("oke-init")][1:] == [[]]
    assert provider_calls(node) == [["install"], VALIDATE]


def test_a_server_cannot_redirect_to_a_file_of_the_node(node: Node) -> None:
    node.write(f"etc/{ASSET}", INSTALLS)
    node.write("etc/SHA256SUMS", f"{sha256(INSTALLS.encode()).hexdigest()}  {ASSET}\n")
    refused(node, replace(world(), redirect="file:///etc"), SCRIPT)


def test_architecture_unknown(node: Node) -> None:
    node.machine("riscv64")
    assert refused(node, world(), SCRIPT, "there is no binary for riscv64").requests == ()


def test_disk_full(node: Node) -> None:
    large = INSTALLS + "# " + "x" * 200_000
    refused(node, replace(world(large), usr_local_kib=64), SCRIPT)


def test_install_failing(node: Node) -> None:
    run = refused(node, world(FAILS), SCRIPT, "its install command failed", called=True)
    assert "the self-test failed" in run.stderr


def test_second_run_downloads_nothing_and_joins_the_same_way(node: Node) -> None:
    node.run(world(), SCRIPT)
    run = node.run(world(None), SCRIPT)  # GitHub is unreachable now
    assert run.returncode == 0
    assert [call[1:] for call in node.calls("oke-init")] == [["--kubelet-extra-args", FLAGS]] * 2
    assert provider_calls(node) == [["install"], VALIDATE, ["version"], VALIDATE]
    assert f"{VERSION} is already installed" in run.stderr


def test_an_older_version_in_the_image_is_replaced(node: Node) -> None:
    node.program("usr/local/bin/oke-credential-provider", INSTALLS.replace(VERSION, "0.0.9"))
    node.write(CONFIG, "kind: CredentialProviderConfig\n")
    node.run(world(), SCRIPT)
    assert provider_calls(node) == [["version"], ["install"], VALIDATE]
    assert joined_with(node) == ["--kubelet-extra-args", FLAGS]


def test_a_provider_without_its_config_is_installed_again(node: Node) -> None:
    node.program("usr/local/bin/oke-credential-provider", INSTALLS)
    run = node.run(world(), SCRIPT)
    assert node.path(CONFIG).exists(), run.stderr
    assert joined_with(node) == ["--kubelet-extra-args", FLAGS]


def test_metadata_service_slow_at_first(node: Node) -> None:
    run = node.run(replace(world(), imds_failures=7), SCRIPT)
    assert joined_with(node) == ["--kubelet-extra-args", FLAGS], run.stderr


def test_the_users_flags_come_first(node: Node) -> None:
    node.run(world(), with_variables(SCRIPT, KUBELET_EXTRA_ARGS='"--v=4 --max-pods=31"'))
    assert joined_with(node) == ["--kubelet-extra-args", f"--v=4 --max-pods=31 {FLAGS}"]


def test_the_users_flags_survive_a_failed_installation(node: Node) -> None:
    node.run(world(None), with_variables(SCRIPT, KUBELET_EXTRA_ARGS="--v=4"))
    assert joined_with(node) == ["--kubelet-extra-args", "--v=4"]


def test_the_join_command_decides_the_exit_code(node: Node) -> None:
    metadata = {"oke_init_script": encoded(recorder("oke-init", "exit 7\n"))}
    assert node.run(world(metadata=metadata), SCRIPT).returncode == 7
    assert len(node.calls("oke-init")) == 1


# The released program (None: unreachable), and the arguments that the join script gets.
RELEASES = pytest.mark.parametrize(
    ("released", "ours"), [(INSTALLS, ["--kubelet-extra-args", FLAGS]), (None, [])]
)


@pytest.mark.parametrize(("released", "ours"), [(INSTALLS, f" {FLAGS}"), (None, "")])
def test_karpenters_flags_are_passed_on(node: Node, released: str | None, ours: str) -> None:
    theirs = "--node-labels='a=b' --register-with-taints='karpenter.sh/unregistered=*:NoExecute'"
    node.recorder("etc/oke/oke-install.sh")
    metadata = {**SELF_MANAGED, "kubedns_svc_ip": "10.96.5.5", "kubelet-extra-args": theirs}
    run = node.run(world(released, metadata), SCRIPT)
    assert run.returncode == 0, run.stderr
    assert node.calls("oke-install.sh") == [
        [*SELF_MANAGED_CALL, "--cluster-dns", "10.96.5.5", "--kubelet-extra-args", theirs + ours]
    ]


@RELEASES
def test_self_managed_node(node: Node, released: str | None, ours: list[str]) -> None:
    node.recorder("etc/oke/oke-install.sh")
    node.run(world(released, SELF_MANAGED), SCRIPT)
    assert node.calls("oke-install.sh") == [[*SELF_MANAGED_CALL, *ours]]


@RELEASES
def test_ubuntu_node(node: Node, released: str | None, ours: list[str]) -> None:
    node.write("etc/os-release", "ID=ubuntu\nID_LIKE=debian\n")
    node.recorder("usr/bin/oke")
    node.run(world(released), SCRIPT)
    assert node.calls("oke") == [["/usr/bin/oke", "bootstrap", *ours]]
    assert node.calls("oke-init") == []


@RELEASES
def test_ubuntu_node_with_a_gpu(node: Node, released: str | None, ours: list[str]) -> None:
    """As OKE's oke-install.sh does on nodes with nvidia-smi."""
    node.write("etc/os-release", "ID=ubuntu\nID_LIKE=debian\n")
    node.recorder("usr/bin/oke")
    node.recorder("usr/bin/nvidia-smi")
    node.run(world(released), SCRIPT)
    assert node.calls("oke") == [["/usr/bin/oke", "bootstrap", "--manage-gpu-services=true", *ours]]


def test_a_managed_node_with_oke_install_joins_by_its_init_script(node: Node) -> None:
    node.recorder("etc/oke/oke-install.sh")
    node.run(world(), SCRIPT)
    assert joined_with(node) == ["--kubelet-extra-args", FLAGS]
    assert node.calls("oke-install.sh") == []


def test_a_machine_that_is_not_an_oke_node_is_reported(node: Node) -> None:
    run = node.run(world(metadata={}), SCRIPT)
    assert run.returncode == 1
    assert "this is not an OKE node" in run.stderr


def test_an_old_daemonset_with_the_new_script_does_not_join_a_node_again(node: Node) -> None:
    """0.1.0 ran "cloud-init.sh install" on nodes that had joined."""
    run = node.run(world(), SCRIPT, "install")
    assert run.returncode == 2
    assert "has no arguments" in run.stderr
    assert provider_calls(node) == node.calls("oke-init") == []


def test_a_bucket_instead_of_github(node: Node) -> None:
    bucket = "/p/read-only/n/namespace/b/releases/o/0.1.0"
    files = release(bucket, {ASSET: INSTALLS})
    elsewhere = with_variables(SCRIPT, BASE_URL=f"https://github.com{bucket}")
    run = node.run(World(MANAGED, files), elsewhere)
    assert joined_with(node) == ["--kubelet-extra-args", FLAGS]
    # The URL of a pre-authenticated request is a secret.
    assert "read-only" not in run.stderr + node.console
