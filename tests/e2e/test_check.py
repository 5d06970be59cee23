"""`check`: the list of steps, the settings, permissions, the text output."""

import os
import pty
import re
import shutil
from collections.abc import Callable, Mapping

import pytest

from provider.commands.check import kubelet
from provider.commands.check.flags import judge_unit
from provider.commands.check.step import Step, exit_code, not_visible, ok, warning
from provider.commands.check.unit import Unit
from provider.commands.node.files import ConfigFiles, Executable
from provider.commands.node.processes import Kubelet, Processes
from tests.cloud.model import INSTANCE, RESOURCE, USER, Fault, Iam, Policy
from tests.conftest import Program
from tests.support.built import one_file
from tests.support.processes import AS_OTHER
from tests.support.worker import ALONE, BIN_DIR, FOLDER, IMAGE, NAME, Node, config
from tests.support.worker import node as node  # the fixture

OF_THE_KUBELET = (
    *("kubelet", "kubelet unit", "provider config", "programs", "version", "matchImages"),
    *("settings", "metadata", "init script"),
)
# They need valid settings.
OF_THE_PROGRAM = (
    *("registry name", "registry route", "clock", "federation route"),
    *("identity", "token", "pull", "shared tokens"),
)


def test_on_a_healthy_node_every_step_is_ok(node: Node) -> None:
    checked = node.check()
    assert checked.causes() == {}
    assert checked.code == 0
    assert checked.content["holds"] is True
    assert checked.names() == [*OF_THE_KUBELET, *OF_THE_PROGRAM]
    assert "kubelet 1.34" in checked.result("kubelet")
    assert INSTANCE in checked.result("identity")
    assert checked.step("token")["milliseconds"] > 0


def test_without_an_image_the_token_is_from_the_regions_registry(node: Node) -> None:
    checked = node.check(None)
    assert checked.code == 0
    assert "ocir.eu-frankfurt-1.oci.oraclecloud.com" in checked.action("token")
    assert checked.step("pull")["status"] == "skipped"


def test_a_check_leaves_the_cache_empty(node: Node) -> None:
    node.check()
    assert not node.cloud.ns.path("/run/oke-credential-provider").exists()


def test_without_a_kubelet_only_the_registry_is_checked(node: Node) -> None:
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
    assert USER in checked.result("identity")
    node.cloud.control.iam(Iam(policies=()))
    assert "Allow group <group> to read repos" in node.check().advice("pull")


def test_a_resource_principal_is_read_from_the_environment(node: Node) -> None:
    resource = node.cloud.control.resource()
    values = {"VERSION": "2.2", "RPST": resource.token, "PRIVATE_PEM": resource.private_pem}
    node.kubelet_env = {f"OCI_RESOURCE_PRINCIPAL_{name}": text for name, text in values.items()}
    node.config(config(env={"OCIR_AUTH_METHOD": "RESOURCE_PRINCIPAL"}))
    node.cloud.control.iam(Iam(policies=(Policy(RESOURCE),)))
    checked = node.check()
    assert checked.causes() == {}
    assert checked.cause("metadata") == "not-needed"
    assert "OCI_RESOURCE_PRINCIPAL_*" in checked.action("identity")


# --- settings -------------------------------------------------------------------------------------


def test_invalid_settings_in_the_config_are_reported(node: Node) -> None:
    node.config(config(env={"TOKEN_VALIDATION": "maybe"}))
    checked = node.check()
    assert checked.causes() == {"settings": "bad-settings"}
    assert "TOKEN_VALIDATION is 'maybe'" in checked.result("settings")


@pytest.mark.every_form
def test_with_invalid_settings_the_later_steps_are_skipped(node: Node) -> None:
    names = node.check().names()
    node.config(config(env={"TOKEN_VALIDATION": "maybe"}))
    checked = node.check()
    assert checked.names() == names
    for name in OF_THE_PROGRAM:
        assert checked.step(name)["status"] == "skipped"
        assert "'settings'" in checked.result(name)


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
def test_every_step_is_listed_whatever_fails(
    node: Node, breaks: Callable[[Node], object], image: str | None
) -> None:
    names = node.check(image).names()
    breaks(node)
    checked = node.check(image)
    assert checked.code == 1
    assert checked.names() == names


@pytest.mark.every_form
def test_a_misspelled_variable_is_reported_with_a_suggestion(node: Node) -> None:
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
    result = checked.result("settings")
    assert "TOKEN_VALIDATON is not a setting (did you mean TOKEN_VALIDATION?)" in result
    for name, meant in (("ocir_hosts", "OCIR_HOSTS"), ("OCI_AUTH_METHOD", "OCIR_AUTH_METHOD")):
        node.config(config(env={name: "x"}))
        assert f"did you mean {meant}?" in node.check().result("settings")


def test_args_that_run_a_command_are_reported(node: Node) -> None:
    node.config(config(more="  args: [version]"))
    assert node.check().causes() == {"settings": "bad-args"}


def test_the_settings_file_in_the_config_is_read(node: Node) -> None:
    node.write(f"{FOLDER}/settings.yaml", "registryTokenPath: nowhere\n")
    node.config(config(more=f"  args: [-config, {FOLDER}/settings.yaml]"))
    checked = node.check()
    assert checked.causes() == {"settings": "bad-settings"}
    assert f"{FOLDER}/settings.yaml: registryTokenPath" in checked.result("settings")


def test_the_settings_are_from_the_kubelets_environment(node: Node) -> None:
    node.kubelet_env = {"DEADLINE_SECONDS": "forever"}
    assert node.check(env={"DEADLINE_SECONDS": "10"}).causes() == {"settings": "bad-settings"}


# --- permissions ----------------------------------------------------------------------------------


def test_what_this_user_cannot_see_is_neither_ok_nor_failed() -> None:
    config_files = ConfigFiles("/etc/x", {}, error="Permission denied", denied=True)
    unit = Unit({"/etc/a.conf": "[Service]\n"}, {}, unreadable=("/etc/b.conf",))
    steps: list[Step] = [
        kubelet.judge_kubelet(Processes(all_seen=False), True, None, Unit({}, {})),
        kubelet.judge_config(config_files, None),
        kubelet.judge_programs([Executable("/x/y", "not visible", denied=True)]),
        judge_unit(unit, Kubelet(1, ("kubelet",))),
    ]
    assert {step.status for step in steps} == {"not visible"}
    assert all(step.advice[0].startswith("Run the check as root.") for step in steps)


def test_an_unprivileged_user_is_told_to_use_root(node: Node) -> None:
    shutil.copy(one_file(), node.cloud.ns.path(f"{FOLDER}/program"))
    node.program = Program("one file", (*AS_OTHER, f"{FOLDER}/program"))
    checked = node.check()
    assert checked.code == 3
    assert checked.causes() == {"kubelet": "not-visible"}
    assert checked.cause("provider config") == "no-config"
    assert "--profile=sysadmin" in checked.advice("kubelet")


def test_the_exit_code_of_failed_and_invisible_steps() -> None:
    fine, odd = ok("a", "", ""), warning("b", "x", "", "")
    hidden = not_visible("c", "", "")
    wrong = Step("d", "failed", "x", "", "")
    assert exit_code([fine, odd]) == 0
    assert exit_code([fine, hidden, odd]) == 3
    assert exit_code([hidden, wrong, fine]) == 1


# --- text output ----------------------------------------------------------------------------------


def test_the_text_has_a_line_for_each_step_and_advice_for_failures(node: Node) -> None:
    node.cloud.control.iam(Iam(policies=()))
    result = node.run("check", IMAGE)
    assert result.returncode == 1
    text = result.stdout.decode()
    assert "\x1b" not in text
    assert re.search(r"^  ok +kubelet +pid \d+, kubelet 1.34, with both flags", text, re.M)
    assert re.search(r"^  failed +pull +fra\.ocir\.io/ns/repo: denied", text, re.M)
    assert "Allow dynamic-group oke-nodes to read repos in tenancy" in text
    assert "tried:" not in text
    assert text.endswith("\nFailed: pull.\n")
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
    output = b""
    while True:
        try:
            output += os.read(ours, 65536)
        except OSError:  # EIO: the other end was closed
            break
    os.close(ours)
    assert command.wait(30) in (0, 1)
    return output.decode()


def test_a_terminal_gets_color_unless_no_color_is_set(node: Node) -> None:
    assert "\x1b[32mok" in on_a_terminal(node, {"TERM": "xterm"})
    assert "\x1b" not in on_a_terminal(node, {"TERM": "xterm", "NO_COLOR": "1"})


def test_a_malformed_image_is_rejected(node: Node) -> None:
    result = node.run("check", "Not An Image")
    assert result.returncode == 10
    assert b"bad-request" in result.stderr
