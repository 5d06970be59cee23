"""`check`: the kubelet, its unit and flags, its config, the programs, the init script."""

import base64
import email.mime.multipart
import email.mime.text
import gzip
import os
import re
import shlex
import time
from collections.abc import Mapping

import pytest

from provider.commands.kubelet_config import ALIAS
from provider.commands.node.processes import Kubelet
from tests.cloud.model import Imds
from tests.support.processes import kubelet as kubelet_at
from tests.support.worker import BIN_DIR, CONFIG, FLAGS, FOLDER, KUBELET, NAME, Node, config, entry
from tests.support.worker import node as node  # the fixture

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
def test_a_later_drop_in_that_overrides_the_flags_is_named(node: Node) -> None:
    node.flags = ("--v=2",)
    node.add_files(
        {
            f"{LIB}/kubelet.service": UNIT,
            f"{ETC}/kubelet.service.d/00-default.conf": drop_in("", "KUBELET_DEFAULT_ARGS"),
            f"{ETC}/kubelet.service.d/90-ours.conf": drop_in(OURS),
            f"{LIB}/kubelet.service.d/kubelet-extra-args.conf": drop_in("--v=2 --node-labels=a=b"),
        }
    )
    checked = node.check()
    assert checked.cause("kubelet unit") == "flags-overridden"
    assert checked.step("kubelet unit")["status"] == "failed"
    result = checked.result("kubelet unit")
    assert f"{ETC}/kubelet.service.d/90-ours.conf sets the flags in KUBELET_EXTRA_ARGS" in result
    assert f"{LIB}/kubelet.service.d/kubelet-extra-args.conf sorts later" in result
    assert "oke-credential-provider enable --config" in checked.advice("kubelet")


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        ({f"{ETC}/kubelet.service.d/zz.conf": drop_in(OURS)}, "unit-newer-than-kubelet"),
        ({f"{ETC}/kubelet.service.d/zz.conf": drop_in(OURS, "KUBELET_ARGS")}, "flags-not-used"),
        # Of files with the same name, systemd uses the one in /etc.
        (
            {
                f"{LIB}/kubelet.service.d/50.conf": drop_in(OURS),
                f"{ETC}/kubelet.service.d/50.conf": "",
            },
            "ok",
        ),
        # EnvironmentFile= overrides Environment=.
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
        # An empty assignment removes the earlier ones.
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
def test_the_place_where_the_flags_are_lost_is_reported(
    node: Node, files: Mapping[str, str], cause: str
) -> None:
    node.flags = ()
    node.add_files({f"{LIB}/kubelet.service": UNIT, **files})
    checked = node.check()
    assert checked.cause("kubelet unit") == cause
    if "/etc/oke/oke.conf" in files and cause == "ok":
        assert "the init script did not pass them" in checked.result("kubelet unit")


def test_flags_that_the_next_start_loses_are_a_warning(node: Node) -> None:
    files = {"00.conf": drop_in(" ".join(FLAGS)), "10.conf": drop_in("--v=2")}
    node.add_files(
        {f"{LIB}/kubelet.service": UNIT}
        | {f"{ETC}/kubelet.service.d/{n}": t for n, t in files.items()}
    )
    checked = node.check()
    assert checked.code == 0
    assert checked.causes() == {"kubelet unit": "flags-overridden"}


def test_a_healthy_unit_has_no_finding(node: Node) -> None:
    default = drop_in("--v=2", "KUBELET_DEFAULT_ARGS") + drop_in(" ".join(FLAGS))
    log = "[Service]\nStandardError=journal+console\n"
    node.add_files(
        {
            f"{LIB}/kubelet.service": UNIT,
            f"{ETC}/kubelet.service.d/00-default.conf": default,
            f"{ETC}/kubelet.service.d/10-args.conf": log,
        }
    )
    assert node.check().causes() == {}


@pytest.mark.every_form
def test_without_flags_the_advice_has_the_installed_paths(node: Node) -> None:
    node.flags = ()
    unit = {f"{LIB}/kubelet.service": UNIT}
    node.add_installation({"/etc/kubernetes/ours.yaml": config()}, unit)
    checked = node.check()
    assert checked.cause("kubelet") == "kubelet-without-flags"
    advice = checked.step("kubelet")["advice"]
    assert advice[0] == (
        "The program on this node is in /usr/local/opt/bin, and its config is"
        " /etc/kubernetes/ours.yaml."
    )
    assert (
        f"  sudo /usr/local/opt/bin/{NAME} enable --config /etc/kubernetes/ours.yaml"
        " --bin-dir /usr/local/opt/bin"
    ) in advice


def test_a_node_without_unit_and_installation_gets_other_advice(node: Node) -> None:
    node.flags = ("--config", "/etc/kubernetes/kubelet.yaml")
    node.add_files({})
    checked = node.check()
    assert checked.code == 1
    assert checked.causes() == {"kubelet": "kubelet-without-flags"}
    advice = checked.advice("kubelet")
    assert "has no kubelet.service: add both flags where the kubelet is started" in advice
    assert " enable" not in advice
    assert "The program is not installed on this node" in advice
    assert re.search(r"^  \S+ install$", advice, re.M)
    assert '--kubelet-extra-args "--image-credential-provider-' in advice


def test_a_path_with_shell_syntax_is_quoted(node: Node) -> None:
    path = f"{FOLDER}/$(touch x);`id`.yaml"
    node.flags = (f"--image-credential-provider-config={path}", *FLAGS[1:])
    (line,) = [line for line in node.check().step("provider config")["advice"] if line[0] == " "]
    assert line == f"  {NAME} config >{shlex.quote(path)}"
    node.flags = (f"--image-credential-provider-config={FOLDER}/\x1b[31mred", *FLAGS[1:])
    assert b"\x1b" not in node.run("check").stdout


def test_a_kubelet_with_one_of_the_two_flags_is_reported(node: Node) -> None:
    node.flags = FLAGS[:1]
    checked = node.check()
    assert checked.cause("kubelet") == "kubelet-without-one-flag"
    assert "bin-dir is missing" in checked.result("kubelet")


def test_an_installed_kubelet_that_does_not_run_is_reported(node: Node) -> None:
    node.flags = None
    node.before = f"mount -t tmpfs tmpfs /usr/local/sbin; cp {FOLDER}/kubelet /usr/local/sbin/"
    checked = node.check()
    assert checked.causes() == {"kubelet": "kubelet-not-running"}
    assert "journalctl -u kubelet" in checked.advice("kubelet")


def test_a_missing_config_is_reported(node: Node) -> None:
    node.flags = (f"--image-credential-provider-config={FOLDER}/other.yaml", *FLAGS[1:])
    checked = node.check()
    assert checked.cause("provider config") == "config-unreadable"
    assert f"{FOLDER}/other.yaml: No such file" in checked.result("provider config")


def test_a_config_without_this_program_is_reported(node: Node) -> None:
    node.config(config(name="ecr-credential-provider"))
    node.write(f"{BIN_DIR}/ecr-credential-provider", "#!/bin/sh\n", 0o755)
    checked = node.check()
    assert checked.causes() == {"provider config": "config-without-us"}
    assert "only for: ecr-credential-provider" in checked.result("provider config")


@pytest.mark.parametrize(
    ("text", "result"),
    [
        (config(more="  cacheDuration: 5m"), "providers[0].cacheDuration: unknown field"),
        (config(more="  tokenAttributes: {requireServiceAccount: 1}"), "requireServiceAccount"),
        (config(patterns=()), "providers[0].matchImages"),
        # From the example of Oracle's Go provider.
        (
            config().replace("env: []", "env: [{name: VERIFY_TOKEN_AUTH, value: false}]"),
            "providers[0].env[0].value",
        ),
    ],
)
def test_a_config_that_the_kubelet_rejects_is_reported_with_the_field(
    node: Node, text: str, result: str
) -> None:
    node.config(text)
    checked = node.check()
    assert checked.code == 1
    assert checked.causes() == {"provider config": "config-refused"}
    assert result in checked.result("provider config")


def test_a_missing_cache_type_is_reported_for_kubelets_that_need_it(node: Node) -> None:
    token = "  tokenAttributes: {serviceAccountTokenAudience: x, requireServiceAccount: true}"
    node.config(config(more=token))
    checked = node.check()
    assert checked.causes() == {"provider config": "config-without-cache-type"}
    assert "providers[0].tokenAttributes.cacheType" in checked.result("provider config")
    kubelet_at(node.cloud.ns.path(KUBELET), "1.33.5")
    assert node.check().cause("provider config") == "config-traps"


def test_a_directory_of_configs_is_read_like_the_kubelet_does(node: Node) -> None:
    folder = f"{FOLDER}/configs"
    node.write(f"{folder}/20-ours.yaml", config())
    node.write(f"{folder}/10-other.json", config(name="other", patterns=["quay.io"]))
    node.write(f"{BIN_DIR}/other", "#!/bin/sh\n", 0o755)
    node.flags = (f"--image-credential-provider-config={folder}", *FLAGS[1:])
    assert node.check().causes() == {}
    node.write(f"{folder}/30-again.yml", config())
    checked = node.check()
    assert checked.cause("provider config") == "config-refused"
    assert "30-again.yml" in checked.result("provider config")


def test_a_config_that_is_newer_than_the_kubelet_is_reported(node: Node) -> None:
    os.utime(node.cloud.ns.path(CONFIG), (time.time() + 60, time.time() + 60))
    checked = node.check()
    assert checked.code == 0
    assert checked.causes() == {"provider config": "config-newer-than-kubelet"}
    # Without the program, the kubelet would not start again.
    assert checked.step("provider config")["advice"][-1] == (
        f"  {BIN_DIR}/{NAME} config --validate {CONFIG} --bin-dir {BIN_DIR}"
        " && systemctl daemon-reload && systemctl restart kubelet"
    )


def test_without_flags_a_new_config_is_no_problem(node: Node) -> None:
    node.flags = ()
    node.add_installation({CONFIG: config()}, {f"{LIB}/kubelet.service": UNIT})
    os.utime(node.cloud.ns.path(CONFIG), (time.time() + 60, time.time() + 60))
    checked = node.check()
    # A restart would not put the config into effect.
    assert checked.cause("kubelet") == "kubelet-without-flags"
    assert checked.step("provider config")["status"] == "ok"


def test_a_program_with_another_name_than_in_the_config_is_reported(node: Node) -> None:
    # The examples of Oracle's Go provider have different names in the config and on the disk.
    node.config(config(name="credential-provider-oke"))
    checked = node.check()
    assert checked.causes() == {"programs": "program-missing"}
    assert f"{BIN_DIR}/credential-provider-oke: not there" in checked.result("programs")


def test_a_program_that_is_not_executable_is_reported(node: Node) -> None:
    node.cloud.ns.path(f"{BIN_DIR}/{NAME}").unlink()
    node.write(f"{BIN_DIR}/{NAME}", "#!/bin/sh\n", 0o644)
    checked = node.check()
    assert checked.causes() == {"programs": "program-not-executable"}
    assert f"chmod 755 {BIN_DIR}/{NAME}" in checked.advice("programs")


@pytest.mark.parametrize("more", ['  args: ["--config", "/x\\0"]', '  args: ["\\0"]'])
def test_a_nul_character_in_the_entry_is_reported(node: Node, more: str) -> None:
    node.config(config(env={"TZ": "a\0b"}, more=more))
    checked = node.check()
    assert checked.causes()["provider config"] == "config-unusable"
    assert "env[0].value" in checked.result("provider config")


def test_a_program_that_cannot_be_run_is_reported(node: Node) -> None:
    node.write(f"{BIN_DIR}/{NAME}", "x", 0o755)
    checked = node.check()
    assert checked.causes() == {"programs": "program-not-runnable"}
    assert "neither an ELF file nor a script" in checked.result("programs")


@pytest.mark.parametrize(
    ("script", "cause"),
    [
        ("""echo '{"version": "0.0.1", "commit": "abc"}'""", "version-differs"),
        ("echo hello", "program-is-another"),
        ("exit 3", "program-does-not-answer"),
    ],
)
def test_another_installed_program_is_reported(node: Node, script: str, cause: str) -> None:
    node.cloud.ns.path(f"{BIN_DIR}/{NAME}").unlink()
    node.write(f"{BIN_DIR}/{NAME}", f"#!/bin/sh\n{script}\n", 0o755)
    checked = node.check()
    assert checked.code == 0
    assert checked.causes() == {"version": cause}


def test_take_over_is_recommended_for_the_go_providers_name_only(node: Node) -> None:
    for name, script in (ALIAS, "exit 1"), (ALIAS, "echo hello"), (NAME, "exit 1"):
        node.config(config(name=name))
        node.cloud.ns.path(f"{BIN_DIR}/{name}").unlink(missing_ok=True)
        node.write(f"{BIN_DIR}/{name}", f"#!/bin/sh\n{script}\n", 0o755)
        advice = node.check().advice("version")
        take_over = f"  oke-credential-provider install --take-over --bin-dir {BIN_DIR}"
        assert (take_over in advice) == (name == ALIAS)


def test_an_image_that_no_pattern_matches_is_reported_with_a_pattern(node: Node) -> None:
    node.config(config(patterns=["*.ocir.io"]))
    checked = node.check("ocir.eu-frankfurt-1.oci.oraclecloud.com/ns/repo")
    assert checked.causes() == {"matchImages": "image-not-matched"}
    assert '  - "ocir.*.oci.oraclecloud.com"' in checked.step("matchImages")["advice"]


def test_another_provider_that_comes_first_is_reported(node: Node) -> None:
    node.config(config(name="other", patterns=["fra.ocir.io"]) + entry(NAME, ["*.ocir.io"]))
    node.write(f"{BIN_DIR}/other", "#!/bin/sh\n", 0o755)
    checked = node.check()
    assert checked.code == 0
    assert checked.causes() == {"matchImages": "another-provider-first"}
    assert "other matches too" in checked.result("matchImages")


def test_the_last_of_two_equal_flags_counts() -> None:
    words = ("kubelet", "--a=1", "--b", "2", "--a", "3", "--ab=4")
    running = Kubelet(1, words)
    assert [running.flag(name) for name in ("--a", "--b", "--c")] == ["3", "2", None]


# --- the init script ------------------------------------------------------------------------------


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
def test_an_equals_sign_in_the_metadatas_script_is_reported(
    node: Node, name: str, data: bytes
) -> None:
    node.cloud.control.imds(Imds(metadata={name: base64.b64encode(data).decode()}))
    node.flags = ()
    checked = node.check()
    assert checked.cause("init script") == "kubelet-extra-args-equals"
    assert checked.step("init script")["status"] == "failed"
    assert f"metadata {name} line" in checked.result("init script")


def test_an_equals_sign_in_the_nodes_script_is_a_warning(node: Node) -> None:
    node.write("/run/oke-init.sh", LOSES)
    checked = node.check()
    # This kubelet has the flags. New nodes do not.
    assert checked.step("init script")["status"] == "warning"
    assert "/var/run/oke-init.sh line 3" in checked.result("init script")


def test_a_script_with_a_space_is_ok(node: Node) -> None:
    node.cloud.control.imds(
        Imds(metadata={"oke_init_script": base64.b64encode(KEEPS.encode()).decode()})
    )
    assert node.check().cause("init script") == "ok"


# The lines of Oracle's oke-install.sh about the option.
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
def test_oracles_own_scripts_are_ok(node: Node) -> None:
    metadata = {"oke_init_script": base64.b64encode(ORACLES.encode()).decode()}
    node.cloud.control.imds(Imds(metadata=metadata))
    node.write("/run/oke-init.sh", ORACLES)
    node.add_files({"/etc/oke/oke-install.sh": ORACLES})
    checked = node.check()
    assert checked.causes() == {}
    assert "/etc/oke/oke-install.sh" in checked.action("init script")


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
def test_a_call_with_an_equals_sign_is_reported(node: Node, script: str) -> None:
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
def test_other_commands_with_an_equals_sign_are_ok(node: Node, script: str) -> None:
    node.write("/run/oke-init.sh", "#!/bin/bash\n" + script)
    assert node.check().causes() == {}
