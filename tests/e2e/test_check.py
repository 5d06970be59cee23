"""`check` names the cause of each fault that keeps a node from pulling, and says what to do."""

from __future__ import annotations

import base64
import email.mime.multipart
import email.mime.text
import gzip
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from provider.commands.check import kubelet
from provider.commands.check.flags import judge_unit
from provider.commands.check.step import Step, exit_code, not_visible, ok, warning
from provider.commands.check.unit import Unit
from provider.commands.node.files import ConfigFiles, Executable
from provider.commands.node.processes import Kubelet, Processes
from tests.cloud.harness import Cloud
from tests.cloud.model import (
    ACME,
    CLUSTER_ADDRESS,
    COMPARTMENT,
    INSTANCE,
    LANGLEY,
    TENANCY,
    USER,
    DynamicGroup,
    Endpoint,
    Fault,
    Group,
    Iam,
    Imds,
    Policy,
    Workload,
)
from tests.cloud.namespace import Completed, hosts_file
from tests.conftest import Program
from tests.support.built import one_file
from tests.support.kubelet import request
from tests.support.processes import AS_OTHER
from tests.support.processes import kubelet as kubelet_at

IMAGE = "fra.ocir.io/ns/repo"
FOLDER = "/run/node"
CONFIG = f"{FOLDER}/config.yaml"
BIN_DIR = f"{FOLDER}/bin"
KUBELET = f"{FOLDER}/kubelet"
NAME = "oke-credential-provider"
FLAGS = (
    f"--image-credential-provider-config={CONFIG}",
    "--image-credential-provider-bin-dir",
    BIN_DIR,
)
# No other process of the machine is seen, nor a kubelet of another test.
ALONE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def config(
    name: str = NAME,
    patterns: Sequence[str] = ("*.ocir.io", "ocir.*.oci.oraclecloud.com"),
    env: Mapping[str, str] | None = None,
    more: str = "",
) -> str:
    lines = [
        "apiVersion: kubelet.config.k8s.io/v1",
        "kind: CredentialProviderConfig",
        "providers:",
        entry(name, patterns, env, more),
    ]
    return "\n".join(lines)


def entry(
    name: str, patterns: Sequence[str], env: Mapping[str, str] | None = None, more: str = ""
) -> str:
    lines = [
        f"- name: {name}",
        "  apiVersion: credentialprovider.kubelet.k8s.io/v1",
        "  defaultCacheDuration: 5m",
        f"  matchImages: {json.dumps(list(patterns))}",
        f"  env: {json.dumps([{'name': n, 'value': v} for n, v in (env or {}).items()])}",
        more,
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check printed, as JSON."""

    code: int
    content: dict[str, Any]

    def step(self, name: str) -> dict[str, Any]:
        (found,) = [step for step in self.content["steps"] if step["name"] == name]
        assert isinstance(found, dict)
        return found

    def cause(self, name: str) -> str:
        return str(self.step(name)["cause"])

    def causes(self) -> dict[str, str]:
        """Every step that does not hold."""
        return {
            step["name"]: step["cause"]
            for step in self.content["steps"]
            if step["status"] not in ("ok", "skipped")
        }

    def advice(self, name: str) -> str:
        return "\n".join(self.step(name)["advice"])


@dataclass(slots=True)
class Node:
    """A worker node: files, a process that is called kubelet, and the program in the bin dir."""

    cloud: Cloud
    program: Program
    flags: Sequence[str] | None = FLAGS  # None: no kubelet runs
    kubelet_env: Mapping[str, str] = field(default_factory=dict)
    before: str = ""  # shell, run before the kubelet starts

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        file = self.cloud.ns.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def config(self, text: str) -> None:
        self.write(CONFIG, text)

    def run(self, *args: str, env: Mapping[str, str] | None = None) -> Completed:
        """Run the program beside the kubelet, in a pid namespace with nobody else."""
        lines = [self.before]
        if self.flags is not None:
            exports = " ".join(f"{n}={shlex.quote(v)}" for n, v in self.kubelet_env.items())
            lines += [
                f"env -i {exports} {KUBELET} {shlex.join(self.flags)} &",
                f'until [ "$(readlink /proc/$!/exe)" = {KUBELET} ]; do sleep 0.01; done',
            ]
        # The shell stays process 1.
        lines += [shlex.join([*self.program.argv, *args]), "exit $?"]
        result = self.cloud.ns.run(
            [*ALONE, "bash", "-c", "\n".join(lines)],
            env={**self.program.env, **(env or {})},
            timeout=90,
        )
        told = (result.stdout + result.stderr).decode()
        leaked = [s.kind for s in self.cloud.control.secrets() for n in s.needles() if n in told]
        assert leaked == []
        return result

    def check(self, image: str | None = IMAGE, env: Mapping[str, str] | None = None) -> Checked:
        result = self.run("check", *([image] if image else []), "--output", "json", env=env)
        assert result.stderr == b""
        return Checked(result.returncode, json.loads(result.stdout))


def has_files(node: Node, files: Mapping[str, str]) -> None:
    """Let /etc, /run/systemd and /usr/local of the node have these files besides what is there."""
    for path, text in files.items():
        node.write(f"{FOLDER}/files{path}", text)
    node.before += f"""
        mkdir -p {FOLDER}/files/etc {FOLDER}/files/run/systemd/system {FOLDER}/files/usr/local
        cp -a /etc {FOLDER}/etc && cp -a {FOLDER}/files/etc/. {FOLDER}/etc
        mount --bind {FOLDER}/etc /etc
        mkdir -p /run/systemd/system && mount --bind {FOLDER}/files/run/systemd/system /run/systemd/system
        mount --bind {FOLDER}/files/usr/local /usr/local
    """


def pasted(lines: Sequence[str]) -> list[list[str]]:
    """What the commands that begin with `oci` are called with, when a shell runs these lines."""
    shell = ["oci() { printf '%s\\0' oci \"$@\" >&3; printf '\\n' >&3; echo home-region; }"]
    shell += [line for line in lines if re.match(r"  (oci |[A-Z_]+=)", line)]
    command = "{ " + "\n".join(shell) + "\n} 3>&1 >/dev/null"
    done = subprocess.run(["bash", "-euc", command], capture_output=True, text=True, check=True)
    return [line.removesuffix("\0").split("\0") for line in done.stdout.splitlines()]


@pytest.fixture
def node(cloud: Cloud, program: Program) -> Iterator[Node]:
    node = Node(cloud, program)
    node.config(config())
    kubelet_at(node.cloud.ns.path(KUBELET))
    # Not a link: this checkout may belong to another user than root.
    node.write(f"{BIN_DIR}/{NAME}", f'#!/bin/sh\nexec {shlex.join(program.argv)} "$@"\n', 0o755)
    yield node
    shutil.rmtree(cloud.ns.path(FOLDER))
    cloud.ns.path("/run/oke-init.sh").unlink(missing_ok=True)


# --- all is well --------------------------------------------------------------------------------


def test_a_node_on_which_all_holds_is_told_so_step_by_step(node: Node) -> None:
    checked = node.check()
    assert checked.causes() == {}
    assert checked.code == 0
    assert checked.content["holds"] is True
    assert [step["name"] for step in checked.content["steps"]] == [
        "kubelet",
        "kubelet unit",
        "provider config",
        "programs",
        "version",
        "matchImages",
        "settings",
        "metadata",
        "init script",
        "registry name",
        "registry route",
        "clock",
        "federation route",
        "identity",
        "token",
        "pull",
        "shared tokens",
    ]
    assert "kubelet 1.34" in checked.step("kubelet")["came"]
    assert INSTANCE in checked.step("identity")["came"]
    assert checked.step("token")["milliseconds"] > 0


def test_without_an_image_the_region_s_own_registry_is_asked_for_a_token(node: Node) -> None:
    checked = node.check(None)
    assert checked.code == 0
    assert "ocir.eu-frankfurt-1.oci.oraclecloud.com" in checked.step("token")["tried"]
    assert checked.step("pull")["status"] == "skipped"


def test_a_check_changes_nothing_and_shares_no_token(node: Node) -> None:
    node.check()
    assert not node.cloud.ns.path("/run/oke-credential-provider").exists()


def test_off_a_node_the_way_to_the_registry_is_checked_alone(node: Node) -> None:
    node.flags = None
    checked = node.check()
    assert checked.code == 0
    assert checked.cause("kubelet") == "no-kubelet"
    assert checked.cause("provider config") == "no-config"
    assert checked.cause("pull") == "ok"


def test_a_user_principal_needs_neither_metadata_nor_federation(node: Node) -> None:
    key = node.cloud.control.api_key()
    node.write(f"{FOLDER}/key.pem", key.private_pem, 0o600)
    node.write(
        f"{FOLDER}/oci",
        f"[DEFAULT]\nuser={key.user}\ntenancy={key.tenancy}\nfingerprint={key.fingerprint}\n"
        f"key_file={FOLDER}/key.pem\nregion=eu-frankfurt-1\n",
        0o600,
    )
    user = {"OCIR_AUTH_METHOD": "USER_PRINCIPAL", "OCI_CONFIG_FILE": f"{FOLDER}/oci"}
    node.config(config(env=user))
    checked = node.check()
    assert checked.causes() == {}
    assert checked.cause("metadata") == "not-needed"
    assert USER in checked.step("identity")["came"]
    node.cloud.control.iam(Iam(policies=()))
    assert "Allow group <group> to read repos" in node.check().advice("pull")


# --- workload identity --------------------------------------------------------------------------


TOKENS = """
  tokenAttributes:
    serviceAccountTokenAudience: aud.example
    cacheType: ServiceAccount
    requireServiceAccount: true"""


def workload(node: Node, **more: str) -> dict[str, str]:
    return {
        "OCIR_AUTH_METHOD": "WORKLOAD_IDENTITY",
        "KUBERNETES_SERVICE_HOST": CLUSTER_ADDRESS,
        "OCI_KUBERNETES_SERVICE_ACCOUNT_CERT_PATH": str(node.cloud.ns.folder / "cluster-ca.pem"),
        **more,
    }


def check_as(node: Node, account: Workload) -> Checked:
    node.write(f"{FOLDER}/token", node.cloud.control.service_account_token(account), 0o600)
    args = ("--service-account-token", f"{FOLDER}/token", "--output", "json")
    result = node.run("check", IMAGE, *args)
    return Checked(result.returncode, json.loads(result.stdout))


def test_the_way_of_a_service_account_is_checked_with_its_token(node: Node) -> None:
    node.config(config(env=workload(node), more=TOKENS))
    node.cloud.control.iam(Iam(policies=(Policy(Workload()),)))
    checked = check_as(node, Workload())
    assert checked.causes() == {}
    assert checked.code == 0
    assert "aud.example" in checked.step("account tokens")["came"]
    assert checked.cause("cluster route") == "ok"
    assert "service account default/app" in checked.step("identity")["came"]
    other = check_as(node, Workload(namespace="other"))
    assert other.causes() == {"pull": "repository-denied"}
    assert "request.principal.type = 'workload'" in other.advice("pull")
    assert "experimental" in other.advice("pull")


def kubelet_conf(node: Node) -> str:
    ca = base64.b64encode((node.cloud.ns.folder / "cluster-ca.pem").read_bytes()).decode()
    cluster = {"server": f"https://{CLUSTER_ADDRESS}:6443", "certificate-authority-data": ca}
    return json.dumps(
        {
            "clusters": [{"name": "oke", "cluster": cluster}],
            "contexts": [{"name": "node", "context": {"cluster": "oke"}}],
            "current-context": "node",
        }
    )


def test_the_cluster_is_that_of_the_kubelets_kubeconfig_and_its_source_is_named(
    node: Node,
) -> None:
    node.config(config(env={"OCIR_AUTH_METHOD": "WORKLOAD_IDENTITY"}, more=TOKENS))
    node.cloud.control.iam(Iam(policies=(Policy(Workload()),)))
    kubeconfig = f"{FOLDER}/kubelet.conf"
    node.write(kubeconfig, kubelet_conf(node))
    node.flags = (*FLAGS, "--kubeconfig", kubeconfig)
    checked = check_as(node, Workload())
    assert checked.causes() == {}
    assert f"API server from {kubeconfig}, CA from {kubeconfig}" in str(
        checked.step("cluster route")["tried"]
    )
    assert "service account default/app" in checked.step("identity")["came"]
    os.chown(node.cloud.ns.path(kubeconfig), 65534, 65534)
    checked = check_as(node, Workload())
    assert checked.cause("cluster route") == "cluster-unknown"
    assert f"{kubeconfig} belongs to user 65534" in checked.step("cluster route")["came"]
    assert checked.cause("identity") == "cluster-unknown"


def test_without_an_accounts_token_its_pull_is_not_taken_for_well(node: Node) -> None:
    node.config(config(env=workload(node), more=TOKENS))
    checked = node.check()
    assert checked.causes() == {"identity": "not-visible"}
    assert checked.code == 3
    assert "--service-account-token" in checked.advice("identity")


def test_a_method_and_a_config_that_do_not_fit_are_told(node: Node) -> None:
    node.config(config(env=workload(node)))
    assert node.check().cause("account tokens") == "no-service-account-token"
    node.config(config(more=TOKENS))
    checked = node.check()
    assert checked.causes() == {"account tokens": "tokens-not-used"}
    assert checked.code == 0


def test_with_the_nodes_identity_as_the_second_choice_both_ways_are_checked(node: Node) -> None:
    either = workload(node, OCIR_AUTH_METHOD="WORKLOAD_IDENTITY_OR_INSTANCE_PRINCIPAL")
    node.config(config(env=either, more=TOKENS.replace("true", "false")))
    checked = node.check()
    assert checked.causes() == {}
    assert checked.cause("cluster route") == "ok"
    assert INSTANCE in checked.step("identity")["came"]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault("refused"), "workload-unreachable"),
        (Fault("tls_unknown_ca"), "tls-untrusted"),
    ],
)
def test_a_cluster_that_cannot_be_reached_is_told(node: Node, fault: Fault, cause: str) -> None:
    node.config(config(env=workload(node), more=TOKENS))
    node.cloud.control.fault("cluster", fault)
    assert node.check().cause("cluster route") == cause


def test_a_node_that_knows_no_cluster_is_told(node: Node) -> None:
    node.config(config(env={"OCIR_AUTH_METHOD": "WORKLOAD_IDENTITY"}, more=TOKENS))
    node.cloud.control.imds(Imds(metadata={}))
    assert node.check().cause("cluster route") == "cluster-unknown"


def test_what_is_no_accounts_token_is_refused(node: Node) -> None:
    node.write(f"{FOLDER}/token", "no token")
    assert node.run("check", "--service-account-token", f"{FOLDER}/token").returncode == 13


# --- the kubelet --------------------------------------------------------------------------------


def test_a_kubelet_without_the_flags_asks_nobody(node: Node) -> None:
    node.flags = ("--config", "/etc/kubernetes/kubelet.yaml")
    checked = node.check()
    assert checked.code == 1
    assert checked.causes() == {"kubelet": "kubelet-without-flags"}
    assert '--kubelet-extra-args "--image-credential-provider-' in checked.advice("kubelet")


UNIT = (
    "[Unit]\nDescription=kubelet\n[Service]\n"
    "ExecStart=/usr/bin/kubelet $KUBELET_DEFAULT_ARGS $KUBELET_EXTRA_ARGS\n"
)
LIB, ETC = "/run/systemd/system", "/etc/systemd/system"
OURS = " ".join(
    f"--image-credential-provider-{name}"
    for name in ("bin-dir=/opt/bin", "config=/etc/kubernetes/providers.yaml")
)


def drop_in(value: str, variable: str = "KUBELET_EXTRA_ARGS") -> str:
    return f'[Service]\nEnvironment="{variable}={value}"\n'


@pytest.mark.every_form
def test_a_drop_in_that_sorts_later_is_named_as_what_took_the_flags(node: Node) -> None:
    node.flags = ("--v=2",)
    has_files(
        node,
        {
            f"{LIB}/kubelet.service": UNIT,
            f"{ETC}/kubelet.service.d/00-default.conf": drop_in("", "KUBELET_DEFAULT_ARGS"),
            f"{ETC}/kubelet.service.d/90-ours.conf": drop_in(OURS),
            f"{LIB}/kubelet.service.d/kubelet-extra-args.conf": drop_in("--v=2 --node-labels=a=b"),
        },
    )
    checked = node.check()
    assert checked.cause("kubelet unit") == "flags-overridden"
    assert checked.step("kubelet unit")["status"] == "failed"
    came = checked.step("kubelet unit")["came"]
    assert f"{ETC}/kubelet.service.d/90-ours.conf sets the flags in KUBELET_EXTRA_ARGS" in came
    assert f"{LIB}/kubelet.service.d/kubelet-extra-args.conf sorts later" in came
    assert "oke-credential-provider enable --config" in checked.advice("kubelet")


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        ({f"{ETC}/kubelet.service.d/zz.conf": drop_in(OURS)}, "unit-newer-than-kubelet"),
        ({f"{ETC}/kubelet.service.d/zz.conf": drop_in(OURS, "KUBELET_ARGS")}, "flags-not-used"),
        # systemd takes the file of a name in /etc in place of the others.
        (
            {
                f"{LIB}/kubelet.service.d/50.conf": drop_in(OURS),
                f"{ETC}/kubelet.service.d/50.conf": "",
            },
            "ok",
        ),
        # A file of variables wins over every drop-in.
        (
            {
                f"{LIB}/kubelet.service.d/00.conf": (
                    "[Service]\nEnvironmentFile=-/etc/kubelet.env\nEnvironmentFile=-/etc/none\n"
                ),
                f"{ETC}/kubelet.service.d/zz.conf": drop_in(OURS),
                "/etc/kubelet.env": "# flags\nKUBELET_EXTRA_ARGS=--v=2\n",
            },
            "flags-overridden",
        ),
        # An empty assignment takes back what came before.
        (
            {
                f"{LIB}/kubelet.service.d/00.conf": drop_in(OURS),
                f"{ETC}/kubelet.service.d/10.conf": "[Service]\nEnvironment=\n",
            },
            "flags-overridden",
        ),
        (
            {"/etc/oke/oke.conf": f'OKE_EXTRA_ARGS=--kubelet-extra-args="{OURS}"\nCLUSTER_DNS=\n'},
            "flags-lost-after-oke-conf",
        ),
        ({"/etc/oke/oke.conf": "OKE_EXTRA_ARGS=\nCLUSTER_DNS=\n"}, "ok"),
    ],
)
def test_where_the_flags_were_lost_is_told(
    node: Node, files: Mapping[str, str], cause: str
) -> None:
    node.flags = ()
    has_files(node, {f"{LIB}/kubelet.service": UNIT, **files})
    checked = node.check()
    assert checked.cause("kubelet unit") == cause
    if "/etc/oke/oke.conf" in files and cause == "ok":
        assert "the init script did not pass them" in checked.step("kubelet unit")["came"]


def test_flags_that_the_next_start_would_lose_are_a_warning(node: Node) -> None:
    files = {"00.conf": drop_in(" ".join(FLAGS)), "10.conf": drop_in("--v=2")}
    has_files(
        node,
        {f"{LIB}/kubelet.service": UNIT}
        | {f"{ETC}/kubelet.service.d/{n}": t for n, t in files.items()},
    )
    checked = node.check()
    assert checked.code == 0
    assert checked.causes() == {"kubelet unit": "flags-overridden"}


def test_a_healthy_unit_is_left_in_peace(node: Node) -> None:
    default = drop_in("--v=2", "KUBELET_DEFAULT_ARGS") + drop_in(" ".join(FLAGS))
    log = "[Service]\nStandardError=journal+console\n"
    has_files(
        node,
        {
            f"{LIB}/kubelet.service": UNIT,
            f"{ETC}/kubelet.service.d/00-default.conf": default,
            f"{ETC}/kubelet.service.d/10-args.conf": log,
        },
    )
    assert node.check().causes() == {}


@pytest.mark.every_form
def test_without_flags_the_places_on_this_node_and_the_command_for_it_are_named(node: Node) -> None:
    node.flags = ()
    record = {
        "bin_dirs": ["/usr/local/our bin"],
        "configs": {"/etc/kubernetes/ours.yaml": "0"},
        "folders": [],
        "previous": "",
    }
    has_files(
        node,
        {
            f"{LIB}/kubelet.service": UNIT,
            "/usr/local/lib/oke-credential-provider/installed.json": json.dumps(
                {**record, "bin_dirs": ["/usr/local/opt/bin"]}
            ),
            f"/usr/local/opt/bin/{NAME}": "#!/bin/sh\nexit 0\n",
            "/etc/kubernetes/ours.yaml": config(),
        },
    )
    node.before += f"chmod 755 /usr/local/opt/bin/{NAME}\n"
    checked = node.check()
    assert checked.cause("kubelet") == "kubelet-without-flags"
    advice = checked.step("kubelet")["advice"]
    assert advice[0] == (
        "On this node the program is in /usr/local/opt/bin, and its config is"
        " /etc/kubernetes/ours.yaml."
    )
    assert (
        f"  sudo /usr/local/opt/bin/{NAME} enable --config /etc/kubernetes/ours.yaml"
        " --bin-dir /usr/local/opt/bin"
    ) in advice


def test_unit_files_that_this_user_may_not_read_are_told() -> None:
    hidden = Unit({"/etc/a.conf": UNIT}, {}, unreadable=("/etc/b.conf",))
    running = Kubelet(1, ("kubelet",))
    assert judge_unit(hidden, running).status == "not visible"


def test_a_kubelet_without_a_unit_is_no_matter_for_enable(node: Node) -> None:
    node.flags = ()
    has_files(node, {})
    advice = node.check().advice("kubelet")
    assert "has no kubelet.service: add both flags where the kubelet is started" in advice
    assert " enable" not in advice


def test_a_node_on_which_nothing_is_installed_is_told_to_install_first(node: Node) -> None:
    node.flags = ()
    has_files(node, {})
    advice = node.check().advice("kubelet")
    assert "The program is not installed on this node" in advice
    assert re.search(r"^  \S+ install$", advice, re.M)


def test_a_path_that_holds_shell_syntax_is_quoted(node: Node) -> None:
    path = f"{FOLDER}/$(touch x);`id`.yaml"
    node.flags = (f"--image-credential-provider-config={path}", *FLAGS[1:])
    (line,) = [line for line in node.check().step("provider config")["advice"] if line[0] == " "]
    assert line == f"  {NAME} config >{shlex.quote(path)}"
    node.flags = (f"--image-credential-provider-config={FOLDER}/\x1b[31mred", *FLAGS[1:])
    assert b"\x1b" not in node.run("check").stdout


def test_a_kubelet_with_one_of_the_two_flags_is_told(node: Node) -> None:
    node.flags = FLAGS[:1]
    checked = node.check()
    assert checked.cause("kubelet") == "kubelet-without-one-flag"
    assert "bin-dir is missing" in checked.step("kubelet")["came"]


def test_a_kubelet_that_is_installed_and_does_not_run_is_told(node: Node) -> None:
    node.flags = None
    node.before = f"mount -t tmpfs tmpfs /usr/local/sbin; cp {FOLDER}/kubelet /usr/local/sbin/"
    checked = node.check()
    assert checked.causes() == {"kubelet": "kubelet-not-running"}
    assert "journalctl -u kubelet" in checked.advice("kubelet")


def test_flags_that_point_to_a_file_that_is_not_there_are_told(node: Node) -> None:
    node.flags = (f"--image-credential-provider-config={FOLDER}/other.yaml", *FLAGS[1:])
    checked = node.check()
    assert checked.cause("provider config") == "config-unreadable"
    assert f"{FOLDER}/other.yaml: No such file" in checked.step("provider config")["came"]


def test_flags_that_point_to_a_config_without_this_program_are_told(node: Node) -> None:
    node.config(config(name="ecr-credential-provider"))
    node.write(f"{BIN_DIR}/ecr-credential-provider", "#!/bin/sh\n", 0o755)
    checked = node.check()
    assert checked.causes() == {"provider config": "config-without-us"}
    assert "names only: ecr-credential-provider" in checked.step("provider config")["came"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (config(more="  cacheDuration: 5m"), 'unknown field "providers[0].cacheDuration"'),
        (config(more="  tokenAttributes: {requireServiceAccount: 1}"), "requireServiceAccount"),
        (config(patterns=()), "providers[0].matchImages"),
        # As Oracle's Go provider's own example has it.
        (
            config().replace("env: []", "env: [{name: VERIFY_TOKEN_AUTH, value: false}]"),
            "providers[0].env[0].value",
        ),
    ],
)
def test_a_config_that_the_kubelet_refuses_is_told_with_the_field(
    node: Node, text: str, told: str
) -> None:
    node.config(text)
    checked = node.check()
    assert checked.code == 1
    assert checked.causes() == {"provider config": "config-refused"}
    assert told in checked.step("provider config")["came"]


def test_token_attributes_without_cache_type_are_told_for_the_kubelets_that_need_it(
    node: Node,
) -> None:
    token = "  tokenAttributes: {serviceAccountTokenAudience: x, requireServiceAccount: true}"
    node.config(config(more=token))
    checked = node.check()
    assert checked.causes() == {"provider config": "config-without-cache-type"}
    assert "providers[0].tokenAttributes.cacheType" in checked.step("provider config")["came"]
    kubelet_at(node.cloud.ns.path(KUBELET), "1.33.5")
    assert node.check().cause("provider config") == "config-traps"


def test_a_directory_of_configs_is_read_as_the_kubelet_reads_it(node: Node) -> None:
    folder = f"{FOLDER}/configs"
    node.write(f"{folder}/20-ours.yaml", config())
    node.write(f"{folder}/10-other.json", config(name="other", patterns=["quay.io"]))
    node.write(f"{BIN_DIR}/other", "#!/bin/sh\n", 0o755)
    node.flags = (f"--image-credential-provider-config={folder}", *FLAGS[1:])
    assert node.check().causes() == {}
    node.write(f"{folder}/30-again.yml", config())
    checked = node.check()
    assert checked.cause("provider config") == "config-refused"
    assert "30-again.yml" in checked.step("provider config")["came"]


def test_a_config_that_is_newer_than_the_kubelet_is_told(node: Node) -> None:
    os.utime(node.cloud.ns.path(CONFIG), (time.time() + 60, time.time() + 60))
    checked = node.check()
    assert checked.code == 0
    assert checked.causes() == {"provider config": "config-newer-than-kubelet"}
    # The kubelet would not start again if the program had gone meanwhile.
    assert checked.step("provider config")["advice"][-1] == (
        f"  {BIN_DIR}/{NAME} config --validate {CONFIG} --bin-dir {BIN_DIR}"
        " && systemctl daemon-reload && systemctl restart kubelet"
    )


def test_a_program_that_is_not_there_under_the_config_s_name_is_told(node: Node) -> None:
    # Names as in the examples of Oracle's Go provider: one in the config, another on the disk.
    node.config(config(name="credential-provider-oke"))
    checked = node.check()
    assert checked.causes() == {"programs": "program-missing"}
    assert f"{BIN_DIR}/credential-provider-oke: not there" in checked.step("programs")["came"]


def test_a_program_without_run_bit_is_told(node: Node) -> None:
    node.cloud.ns.path(f"{BIN_DIR}/{NAME}").unlink()
    node.write(f"{BIN_DIR}/{NAME}", "#!/bin/sh\n", 0o644)
    checked = node.check()
    assert checked.causes() == {"programs": "program-not-executable"}
    assert f"chmod 755 {BIN_DIR}/{NAME}" in checked.advice("programs")


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("""echo '{"version": "0.0.1", "commit": "abc"}'""", "version-differs"),
        ("echo hello", "program-is-another"),
        ("exit 3", "program-does-not-answer"),
    ],
)
def test_an_installed_program_that_is_not_this_one_is_told(
    node: Node, script: str, cause: str
) -> None:
    node.cloud.ns.path(f"{BIN_DIR}/{NAME}").unlink()
    node.write(f"{BIN_DIR}/{NAME}", f"#!/bin/sh\n{script}\n", 0o755)
    checked = node.check()
    assert checked.code == 0
    assert checked.causes() == {"version": cause}


def test_an_image_that_no_pattern_matches_is_told_with_one_that_does(node: Node) -> None:
    node.config(config(patterns=["*.ocir.io"]))
    checked = node.check("ocir.eu-frankfurt-1.oci.oraclecloud.com/ns/repo")
    assert checked.causes() == {"matchImages": "image-not-matched"}
    assert '  - "ocir.*.oci.oraclecloud.com"' in checked.step("matchImages")["advice"]


def test_another_provider_that_is_first_in_line_is_told(node: Node) -> None:
    node.config(config(name="other", patterns=["fra.ocir.io"]) + entry(NAME, ["*.ocir.io"]))
    node.write(f"{BIN_DIR}/other", "#!/bin/sh\n", 0o755)
    checked = node.check()
    assert checked.code == 0
    assert checked.causes() == {"matchImages": "another-provider-first"}
    assert "other matches too" in checked.step("matchImages")["came"]


def test_of_a_flag_that_is_given_twice_the_last_one_counts() -> None:
    words = ("kubelet", "--a=1", "--b", "2", "--a", "3", "--ab=4")
    running = Kubelet(1, words)
    assert [running.flag(name) for name in ("--a", "--b", "--c")] == ["3", "2", None]


@pytest.mark.every_form
def test_the_gate_looks_where_the_kubelets_flags_say_else_where_install_put_it(node: Node) -> None:
    gate = ("config", "--validate", CONFIG, "--output", "json")
    content = json.loads(node.run(*gate).check().stdout)
    assert content["bin_dir"] == BIN_DIR
    node.cloud.ns.path(f"{BIN_DIR}/{NAME}").unlink()
    assert node.run(*gate).returncode == 1
    node.flags = None
    record = {"bin_dirs": ["/usr/local/opt/bin"], "configs": {}, "folders": [], "previous": ""}
    has_files(
        node,
        {
            "/usr/local/lib/oke-credential-provider/installed.json": json.dumps(record),
            f"/usr/local/opt/bin/{NAME}": "#!/bin/sh\n",
        },
    )
    node.before += f"chmod 755 /usr/local/opt/bin/{NAME}\n"
    content = json.loads(node.run(*gate).check().stdout)
    assert content["bin_dir"] == "/usr/local/opt/bin"
    # A node without the program: a kubelet is installed, and the usual folder is empty.
    node.before += (
        f"rm -r /usr/local/opt; mkdir /usr/local/bin; cp {FOLDER}/kubelet /usr/local/bin\n"
    )
    content = json.loads(node.run(*gate).stdout)
    assert content["bin_dir"] == "/usr/local/bin"
    assert content["accepted"] is False


def test_the_gate_judges_by_the_running_kubelets_version(node: Node) -> None:
    node.config(config(more=TOKENS))
    assert node.run("config", "--validate", CONFIG).returncode == 0
    kubelet_at(node.cloud.ns.path(KUBELET), "1.33.5")
    assert b"known since kubelet 1.34" in node.run("config", "--validate", CONFIG).stdout


# --- settings -----------------------------------------------------------------------------------


def test_wrong_settings_in_the_config_s_env_are_told(node: Node) -> None:
    node.config(config(env={"TOKEN_VALIDATION": "maybe"}))
    checked = node.check()
    assert checked.causes() == {"settings": "bad-settings"}
    assert "TOKEN_VALIDATION is 'maybe'" in checked.step("settings")["came"]


LATER = (
    "registry name",
    "registry route",
    "clock",
    "federation route",
    "identity",
    "token",
    "pull",
    "shared tokens",
)


@pytest.mark.every_form
def test_with_broken_settings_the_later_steps_are_listed_as_skipped(node: Node) -> None:
    whole = [step["name"] for step in node.check().content["steps"]]
    node.config(config(env={"TOKEN_VALIDATION": "maybe"}))
    checked = node.check()
    assert [step["name"] for step in checked.content["steps"]] == whole
    for name in LATER:
        assert checked.step(name)["status"] == "skipped"
        assert "'settings'" in checked.step(name)["came"]


@pytest.mark.parametrize(
    "breaks",
    [
        lambda node: node.config("kind: [\n"),
        lambda node: node.cloud.ns.path(f"{BIN_DIR}/{NAME}").unlink(),
        lambda node: node.cloud.control.fault("imds", Fault("refused")),
        lambda node: node.cloud.control.fault("registry", Fault("refused")),
        lambda node: node.cloud.control.fault("federation", Fault("refused")),
        lambda node: node.config(config(env={"REGISTRY_PROTOCOL": "http"})),
    ],
    ids=["config", "program", "imds", "registry", "federation", "protocol"],
)
@pytest.mark.parametrize("image", [IMAGE, None])
def test_every_step_is_listed_whatever_failed_before(
    node: Node, breaks: Callable[[Node], object], image: str | None
) -> None:
    whole = [step["name"] for step in node.check(image).content["steps"]]
    breaks(node)
    checked = node.check(image)
    assert checked.code == 1
    assert [step["name"] for step in checked.content["steps"]] == whole


@pytest.mark.every_form
def test_a_misspelt_variable_is_named_with_what_was_meant(node: Node) -> None:
    others = {
        "KUBERNETES_SERVICE_PORT": "443",
        "HTTP_PROXY": "http://p:1",
        "OCI_CLI_REGION": "x",
        "TOKEN": "x",
        "LOG_FORMAT": "x",
    }
    node.config(config(env={**others, "TOKEN_VALIDATION": "enabled"}))
    assert node.check().causes() == {}
    node.config(config(env={**others, "TOKEN_VALIDATON": "disabled"}))
    checked = node.check()
    assert checked.causes() == {"settings": "misspelt-variable"}
    assert checked.code == 0
    came = checked.step("settings")["came"]
    assert "TOKEN_VALIDATON is no setting (did you mean TOKEN_VALIDATION?)" in came
    for name, meant in (("ocir_hosts", "OCIR_HOSTS"), ("OCI_AUTH_METHOD", "OCIR_AUTH_METHOD")):
        node.config(config(env={name: "x"}))
        assert f"did you mean {meant}?" in node.check().step("settings")["came"]


def test_args_that_make_the_program_a_command_are_told(node: Node) -> None:
    node.config(config(more="  args: [version]"))
    assert node.check().causes() == {"settings": "bad-args"}


def test_the_settings_file_of_the_config_s_args_is_read(node: Node) -> None:
    node.write(f"{FOLDER}/settings.yaml", "registryTokenPath: nowhere\n")
    node.config(config(more=f"  args: [-config, {FOLDER}/settings.yaml]"))
    checked = node.check()
    assert checked.causes() == {"settings": "bad-settings"}
    assert f"{FOLDER}/settings.yaml: registryTokenPath" in checked.step("settings")["came"]


def test_the_kubelet_s_own_environment_counts_and_not_the_shell_s(node: Node) -> None:
    node.kubelet_env = {"DEADLINE_SECONDS": "forever"}
    assert node.check(env={"DEADLINE_SECONDS": "10"}).causes() == {"settings": "bad-settings"}


# --- the metadata service -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault("refused"), "imds-unreachable"),
        (Fault("status", status=429), "imds-throttled"),
        (Fault("status", status=403), "imds-forwarded"),
        (Fault("html"), "imds-unusable"),
    ],
)
def test_a_metadata_service_that_does_not_serve_is_told_apart(
    node: Node, fault: Fault, cause: str
) -> None:
    node.cloud.control.fault("imds", fault)
    checked = node.check()
    assert checked.causes() == {"metadata": cause}
    assert checked.step("identity")["status"] == "skipped"
    # What does not need it is checked all the same.
    assert checked.cause("registry route") == "ok"


# --- the init script ----------------------------------------------------------------------------

LOSES = '#!/bin/bash\n# start\nbash /var/run/oke-init.sh --kubelet-extra-args="--a=b --c=d"\n'
KEEPS = (
    "#!/bin/bash\ncase $1 in --kubelet-extra-args=*) ;; --kubelet-extra-args) ;; esac\n"
    "  # not: --kubelet-extra-args=x\nbash /var/run/oke-init.sh --kubelet-extra-args '--a=b'\n"
)


def mime(script: str) -> bytes:
    archive = email.mime.multipart.MIMEMultipart()
    part = email.mime.text.MIMEText(script, "x-shellscript", "utf-8")
    archive.attach(part)
    return archive.as_bytes()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("oke_init_script", LOSES.encode()),
        ("user_data", LOSES.encode()),
        ("user_data", gzip.compress(LOSES.encode())),
        ("user_data", mime(LOSES)),
    ],
    ids=["oke_init_script", "user_data", "gzip", "mime"],
)
def test_flags_lost_by_an_equals_sign_are_found_in_the_metadata(
    node: Node, name: str, data: bytes
) -> None:
    node.cloud.control.imds(Imds(metadata={name: base64.b64encode(data).decode()}))
    node.flags = ()
    checked = node.check()
    assert checked.cause("init script") == "kubelet-extra-args-equals"
    assert checked.step("init script")["status"] == "failed"
    assert f"metadata {name} line" in checked.step("init script")["came"]


def test_flags_lost_by_an_equals_sign_are_found_in_the_file_on_the_node(node: Node) -> None:
    node.write("/run/oke-init.sh", LOSES)
    checked = node.check()
    # This kubelet has the flags; the next node will not.
    assert checked.step("init script")["status"] == "warning"
    assert "/var/run/oke-init.sh line 3" in checked.step("init script")["came"]


def test_a_script_that_writes_a_space_is_not_accused(node: Node) -> None:
    node.cloud.control.imds(
        Imds(metadata={"oke_init_script": base64.b64encode(KEEPS.encode()).decode()})
    )
    assert node.check().cause("init script") == "ok"


# The lines of Oracle's oke-install.sh that deal with the option.
ORACLES = """#!/bin/bash
# Allow user to specify arguments through custom cloud-init
while [[ $# -gt 0 ]]; do
  case "$1" in
    --kubelet-extra-args)
      export KUBELET_EXTRA_ARGS="$2"
      ;;
    *) # Ignore unsupported args
      ;;
  esac
done
if [[ -n $KUBELET_EXTRA_ARGS ]]; then
  OKE_EXTRA_ARGS="--kubelet-extra-args=\\"$KUBELET_EXTRA_ARGS\\""
fi
echo OKE_EXTRA_ARGS=${OKE_EXTRA_ARGS} > /etc/oke/oke.conf
systemctl enable --now oke
"""


@pytest.mark.every_form
def test_oracles_own_scripts_are_not_accused(node: Node) -> None:
    metadata = {"oke_init_script": base64.b64encode(ORACLES.encode()).decode()}
    node.cloud.control.imds(Imds(metadata=metadata))
    node.write("/run/oke-init.sh", ORACLES)
    has_files(node, {"/etc/oke/oke-install.sh": ORACLES})
    checked = node.check()
    assert checked.causes() == {}
    assert "/etc/oke/oke-install.sh" in checked.step("init script")["tried"]


@pytest.mark.parametrize(
    "script",
    [
        "bash /etc/oke/oke-install.sh --apiserver-endpoint 10.0.0.5 --kubelet-extra-args=--v=2\n",
        "bash /etc/oke/oke-install.sh \\\n  --kubelet-ca-cert LS0t \\\n  --kubelet-extra-args='--v=2'\n",
        "[ -e /x ] && sudo -E bash -x '/var/run/oke-init.sh' --kubelet-extra-args=\"--a=b\n --c=d\"\n",
        "#cloud-config\nruncmd:\n  - /var/run/oke-init.sh --kubelet-extra-args='--v=2'\n",
        "if A=b sh /run/oke-init.sh --kubelet-extra-args=; then x; fi\n",
        "cat <<END\nIt doesn't matter\nEND\nbash /var/run/oke-init.sh --kubelet-extra-args=--v=2\n",
    ],
)
def test_a_call_of_okes_scripts_with_an_equals_sign_is_found(node: Node, script: str) -> None:
    node.write("/run/oke-init.sh", "#!/bin/bash\n" + script)
    assert node.check().causes() == {"init script": "kubelet-extra-args-equals"}


@pytest.mark.parametrize(
    "script",
    [
        'oke bootstrap --kubelet-extra-args="--v=2"\n',
        "bash /var/run/oke-init.sh; oke bootstrap --kubelet-extra-args=--v=2\n",
        "curl x >/var/run/oke-init.sh; bash /var/run/oke-init.sh --kubelet-extra-args '--a=b'\n",
        "echo bash /var/run/oke-init.sh --kubelet-extra-args=x\n",
        'echo "usage: oke-install.sh --kubelet-extra-args=x"\n',
        "grep -q -- 'oke-init.sh --kubelet-extra-args=' /var/log/cloud-init.log\n",
        "# bash /var/run/oke-init.sh --kubelet-extra-args=x\n",
        "bash /var/run/oke-init.sh # not --kubelet-extra-args=x\n",
        'bash /var/run/oke-init.sh --kubelet-extra-args "--a=--kubelet-extra-args=x"\n',
    ],
)
def test_what_is_no_call_with_an_equals_sign_is_not_accused(node: Node, script: str) -> None:
    node.write("/run/oke-init.sh", "#!/bin/bash\n" + script)
    assert node.check().causes() == {}


# --- the network --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "step"),
    [("fra.ocir.io", "registry route"), ("auth.eu-frankfurt-1", "federation route")],
)
def test_a_name_without_address_is_dns(node: Node, host: str, step: str) -> None:
    lines = hosts_file().splitlines()
    node.cloud.ns.hosts("\n".join(line for line in lines if host not in line) + "\n")
    checked = node.check()
    assert checked.causes() == {step: "dns"}
    assert "getent hosts" in checked.advice(step)


def test_a_connect_that_is_never_answered_is_a_missing_route(node: Node) -> None:
    # What a private subnet without Service Gateway looks like: nobody answers the first packet.
    # Here a listener whose queue is full stays silent.
    silent = (
        "import socket; s = socket.socket(); s.bind(('127.0.9.9', 443)); s.listen(0)\n"
        "full = [socket.socket() for _ in range(4)]\n"
        "for c in full: c.setblocking(False); c.connect_ex(('127.0.9.9', 443))\n"
        "print('full', flush=True); input()"
    )
    text = re.sub(r"127\.0\.2\.1 ", "127.0.9.9 ", hosts_file())
    node.cloud.ns.hosts(text)
    node.write(f"{FOLDER}/silent.py", silent)
    node.before = f"sleep 60 | python3 {FOLDER}/silent.py >{FOLDER}/said & until [ -s {FOLDER}/said ]; do sleep 0.01; done"
    checked = node.check()
    assert checked.causes() == {"registry route": "no-route"}
    assert "no answer within 5 s" in checked.step("registry route")["came"]
    assert "Service Gateway" in checked.advice("registry route")
    assert checked.step("token")["status"] == "skipped"


@pytest.mark.parametrize(
    ("group", "kind", "cause"),
    [
        ("registry", "refused", "connection-refused"),
        ("registry", "tls_unknown_ca", "tls-untrusted"),
        ("registry", "tls_expired", "tls-untrusted"),
        ("registry", "reset_accept", "tls-failed"),
        ("registry", "black_hole", "tls-failed"),
        ("registry", "tls_old", "tls-failed"),
        ("federation", "refused", "connection-refused"),
        ("federation", "tls_wrong_name", "tls-untrusted"),
    ],
)
def test_connections_that_fail_are_told_apart(
    node: Node, group: Group, kind: Any, cause: str
) -> None:
    node.cloud.control.fault(group, Fault(kind))
    assert node.check().causes() == {f"{group} route": cause}


def test_a_ca_bundle_that_is_not_there_is_told(node: Node) -> None:
    node.config(config(env={"SSL_CERT_FILE": "/nowhere.pem"}))
    checked = node.check()
    assert checked.cause("registry route") == "bad-settings"
    assert "/nowhere.pem" in checked.step("registry route")["came"]


PROXY = "http://user:hunter2@proxy.example:3128"


def test_a_proxy_of_the_kubelet_s_is_used_and_named_without_its_password(node: Node) -> None:
    node.kubelet_env = {"HTTPS_PROXY": PROXY}
    checked = node.check()
    assert checked.causes() == {}
    assert "by the proxy proxy.example:3128" in checked.step("registry route")["came"]
    assert "hunter2" not in json.dumps(checked.content)


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (Fault("refused"), "proxy-unreachable"),
        (Fault("status", status=407), "proxy-refused"),
    ],
)
def test_a_proxy_that_does_not_serve_is_told_apart(node: Node, fault: Fault, cause: str) -> None:
    node.config(config(env={"HTTPS_PROXY": PROXY}))
    node.cloud.control.fault("proxy", fault)
    checked = node.check()
    assert checked.causes() == {"registry route": cause, "federation route": cause}
    assert "hunter2" not in json.dumps(checked.content)


@pytest.mark.parametrize(("offset", "side"), [(600, "behind"), (-600, "ahead of")])
def test_a_clock_that_is_off_is_told_with_by_how_much(node: Node, offset: float, side: str) -> None:
    node.cloud.control.clock(offset)
    checked = node.check()
    assert checked.causes()["clock"] == "clock-skew"
    came = checked.step("clock")["came"]
    seconds = re.fullmatch(rf"(\d+) s {side} OCI's", came)
    assert seconds
    assert int(seconds[1]) == pytest.approx(600, abs=3)
    assert checked.cause("identity") == "clock-skew"


def test_a_clock_that_drifts_is_a_warning(node: Node) -> None:
    node.cloud.control.clock(90)
    checked = node.check()
    assert checked.code == 0
    assert checked.causes() == {"clock": "clock-drift"}


# --- identity and token -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "fault", "step", "cause"),
    [
        ("federation", Fault("status", status=401), "identity", "federation-refused"),
        ("federation", Fault("html"), "identity", "federation-malformed"),
        ("federation", Fault("status", status=503), "identity", "federation-unreachable"),
        ("token", Fault("status", status=403), "token", "token-refused"),
        ("token", Fault("echo", status=401), "token", "token-refused"),
        ("token", Fault("invalid_json"), "token", "token-malformed"),
        ("manifest", Fault("status", status=503), "pull", "pull-unclear"),
    ],
)
def test_refusals_of_oci_are_told_with_the_request_id(
    node: Node, endpoint: Endpoint, fault: Fault, step: str, cause: str
) -> None:
    node.cloud.control.fault(endpoint, fault)
    checked = node.check()
    assert checked.code == 1
    assert checked.causes() == {step: cause}
    assert "opc-request-id" in checked.step(step)["came"]


@pytest.mark.every_form
@pytest.mark.parametrize(
    "image", ["alpine", "docker.io/library/alpine:3", "elsewhere.example/ns/repo"]
)
def test_no_credentials_for_a_registry_that_is_not_ocirs_is_right(node: Node, image: str) -> None:
    for patterns in (["*.ocir.io"], ["*.ocir.io", "docker.io", "elsewhere.example"]):
        node.config(config(patterns=patterns))
        checked = node.check(image)
        assert checked.causes() == {"registry name": "registry-not-ocir"}
        assert checked.code == 0
        assert "and that is right" in checked.step("registry name")["came"]
        assert "Oracle's dedicated regions alone" in checked.advice("registry name")
        told = json.dumps(checked.content)
        assert "OCIR_HOSTS=" not in told
        assert "Add this line to its matchImages" not in told
    assert node.cloud.control.report().of_group("elsewhere") == 0


@pytest.mark.parametrize(
    "host", ["fra.ocir.oi", "ocir.eu-frankfurt-1.oraclecloud.com", "fra.ocir.io:8443"]
)
def test_a_name_that_is_nearly_ocirs_is_told_to_be_corrected(node: Node, host: str) -> None:
    checked = node.check(f"{host}/ns/repo")
    assert checked.code == 1
    assert checked.cause("registry name") == "registry-not-ocir"
    assert "Correct the image's name" in checked.advice("registry name")
    assert "OCIR_HOSTS=" not in json.dumps(checked.content)


def test_an_image_of_another_realm_is_told(node: Node) -> None:
    image = f"ocir.{LANGLEY.name}.oci.{LANGLEY.domain}/ns/repo"
    node.config(config(patterns=[image]))
    checked = node.check(image)
    assert checked.causes() == {"registry name": "registry-of-another-realm"}


def test_a_dedicated_region_s_registry_is_known_by_its_metadata(node: Node) -> None:
    node.cloud.control.imds(Imds(region=ACME))
    image = f"ocir.{ACME.name}.oci.{ACME.domain}/ns/repo"
    node.config(config(patterns=[image]))
    assert node.check(image).causes() == {}


# --- the repository -----------------------------------------------------------------------------


@pytest.mark.parametrize("iam", [Iam(policies=()), Iam(dynamic_groups=())])
def test_a_denied_repository_gets_rule_and_statement_with_this_node_s_ocids(
    node: Node, iam: Iam
) -> None:
    node.cloud.control.iam(iam)
    checked = node.check()
    assert checked.code == 1
    assert checked.causes() == {"pull": "repository-denied"}
    advice = checked.advice("pull")
    assert "Allow dynamic-group oke-nodes to read repos in tenancy" in advice
    assert "imagePullSecrets are not the matter" in advice


PULL_ALONE = (
    "Allow dynamic-group oke-nodes to read repos in tenancy where any"
    " {request.operation='ReadDockerRepositoryMetadata',"
    " request.operation='ReadDockerRepositoryManifest', request.operation='PullDockerLayer'}"
)


@pytest.mark.every_form
def test_the_commands_for_iam_are_for_the_home_region_and_the_tenancy(node: Node) -> None:
    node.cloud.control.iam(Iam(policies=()))
    advice = node.check().step("pull")["advice"]
    assert f"  {PULL_ALONE}" in advice
    region, group, plain, least, _ = pasted(advice)
    assert region[1:4] == ["iam", "region-subscription", "list"]
    for command in (group, plain, least):
        options = dict(zip(command[4::2], command[5::2], strict=True))
        assert options["--region"] == "home-region"
        assert options["--compartment-id"] == TENANCY
        if command is group:
            assert (
                options["--matching-rule"] == f"All {{instance.compartment.id = '{COMPARTMENT}'}}"
            )
        else:
            statement = PULL_ALONE if command is least else PULL_ALONE.partition(" where")[0]
            assert json.loads(options["--statements"]) == [statement]


def describe_instance(node: Node, **fields: object) -> None:
    """Let the metadata service describe the instance with these fields; its identity stays."""
    body = json.dumps({"id": INSTANCE, "compartmentId": COMPARTMENT, "tenantId": TENANCY, **fields})
    node.cloud.control.fault("imds.instance", Fault("status", status=200, body=body))


HOSTILE = (
    "$(id>/tmp/x)",
    "ocid1.tenancy.oc1..a;id",
    "ocid1.tenancy.oc1..a\nb",
    "ocid1.user.oc1..a",
    "ocid1.tenancy.oc1..a" + "a" * 300,
    7,
)


@pytest.mark.every_form
@pytest.mark.parametrize("value", HOSTILE)
def test_what_is_no_ocid_does_not_become_part_of_a_command(node: Node, value: object) -> None:
    describe_instance(node, id=value, compartmentId=value, tenantId=value)
    node.cloud.control.iam(Iam(policies=()))
    for image in (IMAGE, "fra.ocir.io/other/secret", "fra.ocir.io/ns/absent"):
        checked = node.check(image)
        advice = checked.step("pull")["advice"]
        assert "TENANCY_OCID" in "\n".join(advice)
        assert not [line for line in advice if line.startswith(" ") and str(value) in line]
        assert all(command[0] == "oci" for command in pasted(advice))
        assert checked.step("metadata")["status"] == "warning"
        assert checked.cause("metadata") == "imds-unusable-ocid"
        assert "id, compartmentId, tenantId" in checked.step("metadata")["came"]


@pytest.mark.parametrize(
    "tenancy", ["ocidv1:tenancy:oc1:phx:1460406592660:aaaab4", "ocid1.tenancy.oc1..aaaa"]
)
def test_an_old_tenancys_ocid_is_one_too(node: Node, tenancy: str) -> None:
    describe_instance(node, tenantId=tenancy)
    node.cloud.control.iam(Iam(policies=()))
    checked = node.check()
    assert checked.causes() == {"pull": "repository-denied"}
    assert f"--compartment-id {tenancy} " in checked.advice("pull")


@pytest.mark.parametrize("name", ["$(id>/tmp/x)", "a b", "-x", "a/b"])
def test_a_namespace_that_no_image_can_have_is_not_pasted(node: Node, name: str) -> None:
    node.cloud.control.fault("namespace", Fault("status", status=200, body=json.dumps(name)))
    checked = node.check("fra.ocir.io/other/secret")
    assert checked.causes() == {"pull": "repository-denied"}
    assert name not in json.dumps(checked.content)


def test_an_image_of_another_tenancys_namespace_is_told_with_the_right_name(node: Node) -> None:
    checked = node.check("fra.ocir.io/other/secret")
    assert checked.causes() == {"pull": "another-namespace"}
    assert "which is 'ns'" in checked.step("pull")["came"]
    assert "  fra.ocir.io/ns/secret" in checked.step("pull")["advice"]
    advice = checked.advice("pull")
    assert f"  Define tenancy Nodes as {TENANCY}" in advice
    assert "In the root compartment of this tenancy" in advice
    assert "In the root compartment of the other tenancy" in advice
    assert "Both tenancies must be subscribed to the registry's region" in advice


def test_where_the_namespace_cannot_be_found_out_the_question_is_left_to_people(
    node: Node,
) -> None:
    node.cloud.control.fault("namespace", Fault("status", status=404))
    checked = node.check("fra.ocir.io/other/secret")
    assert checked.causes() == {"pull": "repository-denied"}
    assert "Is 'other' this tenancy's Object Storage namespace?" in checked.advice("pull")


def test_a_shared_token_that_is_older_than_the_dynamic_group_is_told(node: Node) -> None:
    node.cloud.control.iam(Iam(dynamic_groups=()))
    node.program.run(node.cloud, stdin=request("fra.ocir.io/ns/public")).check()
    time.sleep(0.1)
    node.cloud.control.iam(Iam(dynamic_groups=(DynamicGroup(since=time.time()),)))
    checked = node.check()
    assert checked.cause("pull") == "ok"
    assert checked.code == 0
    assert checked.causes() == {"shared tokens": "token-older-than-policy"}
    assert "systemctl restart kubelet" in checked.advice("shared tokens")


def test_a_public_repository_is_said_to_prove_nothing(node: Node) -> None:
    node.cloud.control.iam(Iam(policies=()))
    checked = node.check("fra.ocir.io/ns/public")
    assert checked.code == 0
    assert "public, and proves nothing" in checked.step("pull")["came"]


def test_an_absent_repository_and_an_absent_tag_are_told_apart(node: Node) -> None:
    checked = node.check("fra.ocir.io/ns/absent")
    assert checked.causes() == {"pull": "no-such-repository"}
    # A search in the compartments below takes the tenancy alone.
    (command,) = pasted(checked.step("pull")["advice"])
    assert command[command.index("--compartment-id") + 1] == TENANCY
    checked = node.check(f"{IMAGE}@sha256:{'a' * 64}")
    assert checked.causes() == {"pull": "no-such-tag"}
    assert "credentials are not the matter" in checked.step("pull")["came"]


def test_a_repository_without_the_tag_that_was_not_named_may_be_pulled(node: Node) -> None:
    checked = node.check("fra.ocir.io/ns/untagged")
    assert checked.causes() == {}
    assert "no tag 'latest'" in checked.step("pull")["came"]


@pytest.mark.parametrize(
    ("status", "code", "cause"),
    [
        (404, "NotAuthorizedOrNotFound", "pull-unclear"),
        (403, "DENIED", "repository-denied"),
        (403, "FREE_TIER_NOT_SUPPORTED", "free-tier"),
        (401, "UNKNOWN", "token-not-accepted"),
    ],
)
def test_the_registry_s_code_is_told_and_its_text_is_not(
    node: Node, status: int, code: str, cause: str
) -> None:
    body = json.dumps({"errors": [{"code": code, "message": "the registry's own text"}]})
    node.cloud.control.fault("manifest", Fault("status", status=status, body=body))
    checked = node.check()
    assert checked.causes() == {"pull": cause}
    assert f", {code}" in checked.step("pull")["came"]
    assert "the registry's own text" not in json.dumps(checked.step("pull"))


def test_a_denied_repository_may_be_one_that_does_not_exist(node: Node) -> None:
    node.cloud.control.iam(Iam(policies=(Policy(prefix="ns/repo"),)))
    checked = node.check("fra.ocir.io/ns/absent")
    assert checked.causes() == {"pull": "repository-denied"}
    assert "is there a repository 'ns/absent'" in checked.advice("pull")


# --- shared tokens ------------------------------------------------------------------------------


def test_the_store_s_tokens_are_told_with_owner_age_and_remaining_life(node: Node) -> None:
    node.program.run(node.cloud, stdin=request(IMAGE)).check()
    came = node.check().step("shared tokens")["came"]
    assert re.fullmatch(rf"fra\.ocir\.io: a token of {INSTANCE}, \d s old, 359\d s left", came)


def test_a_shared_failure_is_told(node: Node) -> None:
    node.cloud.control.fault("token", Fault("status", status=403))
    assert node.program.run(node.cloud, stdin=request(IMAGE)).returncode != 0
    node.cloud.control.clear_faults()
    came = node.check().step("shared tokens")["came"]
    assert re.fullmatch(r"fra\.ocir\.io: a failure \(token-refused\), \d+ s old", came)


def test_a_store_that_is_open_to_others_is_told(node: Node) -> None:
    node.program.run(node.cloud, stdin=request(IMAGE)).check()
    node.cloud.ns.path("/run/oke-credential-provider").chmod(0o755)
    checked = node.check()
    assert checked.code == 0
    assert checked.causes() == {"shared tokens": "store-odd"}
    assert "mode 755" in checked.step("shared tokens")["came"]


# --- what cannot be seen ------------------------------------------------------------------------


def test_what_this_user_may_not_see_is_said_and_not_taken_for_well() -> None:
    config_files = ConfigFiles("/etc/x", {}, error="Permission denied", denied=True)
    steps: list[Step] = [
        kubelet.judge_kubelet(Processes(all_seen=False), True, None, Unit({}, {})),
        kubelet.judge_config(config_files, None),
        kubelet.judge_programs([Executable("/x/y", "not visible", denied=True)]),
    ]
    assert {step.status for step in steps} == {"not visible"}
    assert all(step.advice[0].startswith("Run it as root.") for step in steps)


def test_an_unprivileged_user_is_told_that_root_sees_more(node: Node) -> None:
    shutil.copy(one_file(), node.cloud.ns.path(f"{FOLDER}/program"))
    node.program = Program("one file", (*AS_OTHER, f"{FOLDER}/program"))
    checked = node.check()
    assert checked.code == 3
    assert checked.causes() == {"kubelet": "not-visible"}
    assert checked.cause("provider config") == "no-config"
    assert "--profile=sysadmin" in checked.advice("kubelet")


def test_the_exit_code_tells_failures_from_what_could_not_be_seen() -> None:
    well, odd = ok("a", "", ""), warning("b", "x", "", "")
    hidden = not_visible("c", "", "")
    wrong = Step("d", "failed", "x", "", "")
    assert exit_code([well, odd]) == 0
    assert exit_code([well, hidden, odd]) == 3
    assert exit_code([hidden, wrong, well]) == 1


# --- the page -----------------------------------------------------------------------------------


def test_the_page_has_a_line_for_each_step_and_advice_where_it_is_needed(node: Node) -> None:
    node.cloud.control.iam(Iam(policies=()))
    result = node.run("check", IMAGE)
    assert result.returncode == 1
    text = result.stdout.decode()
    assert "\x1b" not in text
    assert re.search(r"^  ok +kubelet +pid \d+, kubelet 1.34, with both flags", text, re.M)
    assert re.search(r"^  failed +pull +fra\.ocir\.io/ns/repo: denied", text, re.M)
    assert "Allow dynamic-group oke-nodes to read repos in tenancy" in text
    assert "tried:" not in text
    assert text.endswith("\nDoes not hold: pull.\n")
    assert "tried: " in node.run("check", IMAGE, "--verbose").stdout.decode()


def on_a_terminal(node: Node, env: Mapping[str, str]) -> str:
    ours, theirs = pty.openpty()
    command = node.cloud.ns.popen(
        [*ALONE, *node.program.argv, "check", IMAGE],
        env={**node.program.env, **env},
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    told = b""
    while True:
        try:
            told += os.read(ours, 65536)
        except OSError:  # EIO: the other end is closed
            break
    os.close(ours)
    assert command.wait(30) in (0, 1)
    return told.decode()


def test_a_terminal_gets_colour_unless_no_color_is_set(node: Node) -> None:
    assert "\x1b[32mok" in on_a_terminal(node, {"TERM": "xterm"})
    assert "\x1b" not in on_a_terminal(node, {"TERM": "xterm", "NO_COLOR": "1"})


def test_an_image_that_is_none_is_refused(node: Node) -> None:
    result = node.run("check", "Not An Image")
    assert result.returncode == 10
    assert b"bad-request" in result.stderr
