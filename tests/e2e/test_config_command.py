"""`config` writes a CredentialProviderConfig for the node's realm, and validates configs."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from provider.commands.kubelet_config import load, matches, validate
from provider.ocir.hosts import REALM_DOMAINS
from tests.cloud.harness import Cloud
from tests.cloud.model import ACME, LANGLEY, Fault, Imds
from tests.cloud.namespace import REPOSITORY, Completed
from tests.conftest import Program
from tests.support import worker
from tests.support.processes import AS_OTHER
from tests.support.processes import kubelet as kubelet_at
from tests.support.worker import ALONE, BIN_DIR, CONFIG, FOLDER, KUBELET, TOKEN_ATTRIBUTES, Node
from tests.support.worker import node as node  # the fixture

Config = Callable[..., Completed]


@pytest.fixture
def config(cloud: Cloud, program: Program) -> Config:
    return lambda *args: run(cloud, program, *args)


def run(
    cloud: Cloud, program: Program, *args: str, stdin: bytes = b"", user: tuple[str, ...] = ()
) -> Completed:
    """Run the command without another test's kubelet in sight."""
    argv = [*ALONE, *user, *program.argv, "config", *args]
    return cloud.ns.run(argv, stdin=stdin, env=program.env)


def matched(text: str, image: str) -> bool:
    (provider,) = load(text).providers
    return any(matches(pattern, image) for pattern in provider.match_images)


def test_on_an_instance_the_config_is_for_the_realm_in_the_metadata(
    cloud: Cloud, config: Config
) -> None:
    text = config().check().stdout.decode()
    assert matched(text, "fra.ocir.io/ns/repo")
    assert matched(text, "ocir.eu-frankfurt-1.oci.oraclecloud.com/ns/repo")
    assert not matched(text, "ocir.us-langley-1.oci.oraclegovcloud.com/ns/repo")
    for region in (LANGLEY, ACME):
        cloud.control.imds(Imds(region=region))
        text = config().check().stdout.decode()
        assert matched(text, f"ocir.{region.name}.oci.{region.domain}/ns/repo")
        assert not matched(text, "fra.ocir.io/ns/repo")


def test_outside_of_oci_the_config_is_for_all_realms(cloud: Cloud, config: Config) -> None:
    cloud.control.fault("imds", Fault("refused"))
    assert config().check().stdout == config("--realm", "all").check().stdout


def test_the_released_config_is_the_output_for_all_realms(cloud: Cloud, config: Config) -> None:
    released = REPOSITORY / "packaging/credential-provider-config.yaml"
    assert config("--realm", "all").check().stdout == released.read_bytes()
    assert cloud.control.report().connections == {}


def test_the_released_config_is_valid_and_matches_every_realm() -> None:
    text = (REPOSITORY / "packaging/credential-provider-config.yaml").read_text()
    for version in ("1.26", "1.33", "1.36"):
        assert validate(text, kubelet_version=version) == []
    (provider,) = load(text).providers
    assert provider.name == "oke-credential-provider"
    assert dict(provider.env) == {
        "REGISTRY_TOKEN_PATH": "/20180419/docker/token",
        "DEFAULT_USER": "BEARER_TOKEN",
        "REGISTRY_PROTOCOL": "https",
        "OCIR_AUTH_METHOD": "INSTANCE_PRINCIPAL",
        "TOKEN_VALIDATION": "enabled",
    }
    assert matched(text, "fra.ocir.io/ns/repo")
    for domain in REALM_DOMAINS.values():
        assert matched(text, f"ocir.any-region-1.oci.{domain}/ns/repo")
    assert not matched(text, "docker.io/library/busybox")


def test_a_realm_can_be_named(config: Config) -> None:
    text = config("--realm", "OC2").check().stdout.decode()
    assert matched(text, "ocir.us-langley-1.oci.oraclegovcloud.com/ns/repo")
    assert not matched(text, "fra.ocir.io/ns/repo")


def test_additional_hosts_are_matched_and_allowed(config: Config) -> None:
    hosts = ("--host", "ocir.my.cloud", "--host", "ocir.*.oci.other.cloud")
    text = config("--realm", "oc1", *hosts).check().stdout.decode()
    assert matched(text, "ocir.my.cloud/ns/repo")
    assert matched(text, "ocir.x.oci.other.cloud/ns/repo")
    (provider,) = load(text).providers
    assert dict(provider.env)["OCIR_HOSTS"] == "ocir.my.cloud,ocir.*.oci.other.cloud"


@pytest.mark.parametrize(
    "args",
    [("--realm", "oc999"), ("--host", "https://x.y"), ("--host", "*.cloud"), ("--host", "x.y/z")],
)
def test_an_invalid_realm_or_host_is_rejected(config: Config, args: tuple[str, ...]) -> None:
    result = config(*args)
    assert result.returncode == 2
    assert result.stdout == b""
    assert repr(args[1]).encode() in result.stderr


def test_json_is_the_same_config(config: Config) -> None:
    text = config("--realm", "all", "--output", "json").check().stdout.decode()
    assert load(text) == load(config("--realm", "all").check().stdout.decode())
    assert json.loads(text)["kind"] == "CredentialProviderConfig"


NAME = "oke-credential-provider"
OTHER = """  - name: ecr
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    defaultCacheDuration: "5m"
    matchImages: ["*.dkr.ecr.*.amazonaws.com"]
"""
GOOD = (REPOSITORY / "packaging/credential-provider-config.yaml").read_text()
BAD = GOOD.replace("defaultCacheDuration", "defaultCacheDuratoin")


def test_a_valid_config(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(GOOD)
    assert config("--validate", str(file)).check().stdout.decode().endswith("accepts this config\n")


def test_an_invalid_config_is_reported_with_its_field_and_exit_code_1(
    config: Config, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(BAD)
    result = config("--validate", str(file))
    assert result.returncode == 1
    text = result.stdout.decode()
    assert "fatal: providers[0].defaultCacheDuratoin: unknown field" in text
    assert text.endswith("rejects this config and does not start\n")
    result = config("--validate", str(file), "--output", "json")
    assert result.returncode == 1
    content = json.loads(result.stdout)
    assert content["accepted"] is False
    assert content["findings"][0]["severity"] == "fatal"


def test_the_rules_are_those_of_the_given_kubelet_version(config: Config, tmp_path: Path) -> None:
    token = "    tokenAttributes: {serviceAccountTokenAudience: x, requireServiceAccount: true}\n"
    file = tmp_path / "config.yaml"
    file.write_text(GOOD + token)
    assert config("--validate", str(file), "--kubelet-version", "1.33").returncode == 0
    assert config("--validate", str(file), "--kubelet-version", "v1.34.2").returncode == 1
    assert config("--validate", str(file)).returncode == 1
    assert config("--validate", str(file), "--kubelet-version", "new").returncode == 2


def test_a_directory_is_validated_as_a_whole(config: Config, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "README").write_text("not: [a config")
    assert config("--validate", str(tmp_path)).returncode == 0
    assert config("--validate", str(tmp_path), "--kubelet-version", "1.33").returncode == 1
    (tmp_path / "b.yaml").write_text(GOOD)
    result = config("--validate", str(tmp_path))
    assert result.returncode == 1
    assert b"duplicate provider name" in result.stdout


def test_a_missing_file_has_its_own_error(config: Config) -> None:
    result = config("--validate", "/nowhere/config.yaml")
    assert result.returncode == 16
    assert b"config-unreadable: /nowhere/config.yaml: No such file" in result.stderr


def test_a_file_that_is_too_large_is_not_validated_in_part(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD + "#" * (1 << 20) + "\nbad: [")
    result = config("--validate", str(path))
    assert result.returncode == 16
    assert b"larger than 1 MiB" in result.stderr


# --- programs and settings ----------------------------------------------------------------------


@pytest.fixture
def bin_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / NAME).write_text("#!/bin/sh\n")
    (folder / NAME).chmod(0o755)
    return folder


Judge = Callable[..., dict[str, Any]]


@pytest.fixture
def judge(cloud: Cloud, program: Program, bin_dir: Path, tmp_path: Path) -> Judge:
    """Validate a text. The exit code must agree with the JSON."""

    def judged(text: str, *args: str) -> dict[str, Any]:
        file = tmp_path / "config.yaml"
        file.write_text(text)
        args = (*(args or ("--bin-dir", str(bin_dir))), "--output", "json")
        result = run(cloud, program, "--validate", str(file), *args)
        content = json.loads(result.stdout)
        assert result.returncode == (0 if content["holds"] else 1)
        assert isinstance(content, dict)
        return content

    return judged


def paths(content: dict[str, Any], severity: str) -> list[str]:
    return [each["path"] for each in content["findings"] if each["severity"] == severity]


@pytest.mark.every_form
def test_a_config_with_an_existing_program_passes(judge: Judge, bin_dir: Path) -> None:
    content = judge(GOOD)
    assert content["findings"] == []
    assert content["accepted"] is content["holds"] is True
    assert content["bin_dir"] == str(bin_dir)


@pytest.mark.every_form
def test_a_program_that_is_missing_or_not_executable_is_fatal(judge: Judge, bin_dir: Path) -> None:
    (bin_dir / NAME).chmod(0o644)
    content = judge(GOOD)
    assert content["accepted"] is False
    assert paths(content, "fatal") == ["providers[0].name"]
    assert content["findings"][0]["message"] == f"{bin_dir}/{NAME} is not executable"
    (bin_dir / NAME).unlink()
    content = judge(GOOD)
    assert content["accepted"] is False
    assert content["findings"][0]["message"] == f"{bin_dir}/{NAME}: not there"
    (bin_dir / NAME).mkdir()
    assert judge(GOOD)["accepted"] is False


def test_the_program_of_another_provider_is_checked_too(judge: Judge, bin_dir: Path) -> None:
    other = GOOD + OTHER
    assert paths(judge(other), "fatal") == ["providers[1].name"]
    (bin_dir / "ecr").write_text("#!/bin/sh\n")
    (bin_dir / "ecr").chmod(0o755)
    assert judge(other)["findings"] == []


# execve(2) fails with ENOEXEC.
NO_PROGRAMS = [b"", b"x", b"#!\n", b"\x7fELF", b"MZ" + b"\0" * 100]


@pytest.mark.every_form
def test_a_program_that_cannot_be_executed_does_not_pass(judge: Judge, bin_dir: Path) -> None:
    """The kubelet starts, and its call of the program fails."""
    (bin_dir / "ecr").write_text("#!/bin/sh\n")
    (bin_dir / "ecr").chmod(0o755)
    for data in NO_PROGRAMS:
        (bin_dir / NAME).write_bytes(data)
        with pytest.raises(OSError, match="Exec format error"):
            subprocess.run([bin_dir / NAME])
        content = judge(GOOD + OTHER)
        assert (content["accepted"], paths(content, "error")) == (True, ["providers[0].name"])
    # Another provider's program does not affect pulls from OCIR.
    shutil.copy(bin_dir / "ecr", bin_dir / NAME)
    for data in NO_PROGRAMS:
        (bin_dir / "ecr").write_bytes(data)
        content = judge(GOOD + OTHER)
        assert (content["holds"], paths(content, "warning")) == (True, ["providers[1].name"])


def test_a_program_that_this_user_cannot_read_passes(
    cloud: Cloud, program: Program, open_folder: Path
) -> None:
    (open_folder / NAME).write_text("#!/bin/sh\n")
    (open_folder / NAME).chmod(0o711)
    (open_folder / "config.yaml").write_text(GOOD)
    args = ("--validate", str(open_folder / "config.yaml"), "--bin-dir", str(open_folder))
    result = run(cloud, program, *args, user=AS_OTHER)
    assert result.returncode == 0, result.stdout


@pytest.mark.every_form
def test_what_gos_yaml_rejects_is_fatal(judge: Judge) -> None:
    for value in (r'"\ud800"', r'"\UFFFFFFFF"', "!!binary x"):
        content = judge(GOOD.replace('"BEARER_TOKEN"', value))
        assert (content["accepted"], paths(content, "fatal")) == (False, [""]), value
    assert judge("%FOO\n---\n" + GOOD)["accepted"] is False
    assert judge("%YAML 1.1\n---\n" + GOOD)["findings"] == []


@pytest.mark.every_form
@pytest.mark.parametrize("form", ["yaml", "json"])
def test_a_nul_character_in_an_argument_or_variable_does_not_pass(judge: Judge, form: str) -> None:
    """YAML and JSON allow it, execve(2) does not."""
    document = yaml.safe_load(GOOD + OTHER)
    ours, other = document["providers"]
    ours["env"][0]["value"] = "a\0b"
    ours["args"] = ["--config", "/x\0"]
    other["env"] = [{"name": "A\0", "value": ""}]
    dump = json.dumps if form == "json" else yaml.safe_dump
    content = judge(dump(document), "--bin-dir", "/nowhere")
    assert paths(content, "error") == ["providers[0].args[1]", "providers[0].env[0].value"]
    assert paths(content, "warning") == ["providers[1].env[0].name"]
    ours["name"] = "a\0b"
    content = judge(dump(document))
    assert "providers[0].name" in paths(content, "fatal")


@pytest.mark.every_form
def test_a_misspelled_provider_is_reported_with_the_right_name(
    judge: Judge, tmp_path: Path
) -> None:
    misspelt = GOOD.replace(f"name: {NAME}", "name: oke-credentials-provider")
    assert misspelt != GOOD
    content = judge(misspelt)
    assert content["accepted"] is False
    assert content["findings"][0]["hint"] == f"did you mean {NAME}?"
    # Without a kubelet, the name is still not this program's.
    result = judge(misspelt, "--kubelet-version", "1.34")
    assert result["bin_dir"] is None
    assert result["accepted"] is True
    assert paths(result, "error") == ["providers"]


def env(**values: str) -> str:
    return GOOD + "".join(
        f"      - name: {name}\n        value: {json.dumps(value)}\n"
        for name, value in values.items()
    )


@pytest.mark.every_form
@pytest.mark.parametrize(
    ("text", "path"),
    [
        (GOOD.replace('"INSTANCE_PRINCIPAL"', '"INSTANCE_PRINCIPLE"'), "providers[0].env[1].value"),
        (env(DEADLINE_SECONDS="600"), "providers[0].env[5].value"),
        (env(TOKEN_CASHE="disabled"), "providers[0].env[5].name"),
        (env(SSL_CERT_FILE="/nowhere.pem"), "providers[0].env"),
        (env(HTTPS_PROXY="socks5://proxy:1"), "providers[0].env"),
        (GOOD.replace('"https"', '"http"'), "providers[0].env"),
        (GOOD.replace('"INSTANCE_PRINCIPAL"', '"USER_PRINCIPAL"'), "providers[0].env"),
        (
            GOOD.replace('"INSTANCE_PRINCIPAL"', '"WORKLOAD_IDENTITY"'),
            "providers[0].tokenAttributes",
        ),
        (GOOD + "    args: [version]\n", "providers[0].args"),
        (GOOD + "    args: [--config, /nowhere.yaml]\n", "providers[0].args"),
        (
            GOOD.replace(
                "apiVersion: credentialprovider.kubelet.k8s.io/v1",
                "apiVersion: credentialprovider.kubelet.k8s.io/v1beta1",
            ),
            "providers[0].apiVersion",
        ),
        (re.sub(r"(      - ).*ocir.*\n", r"\1quay.io\n", GOOD), "providers[0].matchImages"),
    ],
)
def test_a_config_with_which_pulls_fail_does_not_pass(judge: Judge, text: str, path: str) -> None:
    content = judge(text)
    assert content["accepted"] is True
    assert paths(content, "error") == [path]


def test_the_text_says_whether_the_kubelet_starts_and_pulls_work(
    config: Config, bin_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(GOOD.replace('"INSTANCE_PRINCIPAL"', '"INSTANCE_PRINCIPLE"'))
    result = config("--validate", str(file), "--bin-dir", str(bin_dir))
    assert result.returncode == 1
    assert result.stdout.decode().endswith(
        "accepts this config, but pulls from OCIR fail with it\n"
    )
    file.write_text(GOOD)
    assert b"not checked: the programs" in config("--validate", str(file)).check().stdout


def test_hosts_of_dedicated_regions_and_other_variables_pass(judge: Judge) -> None:
    hosts = {"OCIR_HOSTS": "ocir.my.cloud", "KUBERNETES_SERVICE_PORT": "443", "TZ": "UTC"}
    patterns = "      - ocir.my.cloud\n"
    text = re.sub(r"(      - .*ocir.*\n)+", patterns, env(**hosts), count=1)
    assert "*.ocir.io" not in load(text).providers[0].match_images
    assert judge(text)["findings"] == []


@pytest.mark.every_form
def test_a_config_can_be_piped_in(cloud: Cloud, program: Program, bin_dir: Path) -> None:
    args = ("--validate", "-", "--bin-dir", str(bin_dir))
    result = run(cloud, program, *args, stdin=GOOD.encode()).check()
    assert result.stdout == b"-: the kubelet accepts this config\n"
    assert run(cloud, program, *args, stdin=BAD.encode()).returncode == 1
    assert run(cloud, program, *args, stdin=b"\xff\xfe").returncode == 16


def test_bin_dir_without_validate_is_rejected(config: Config) -> None:
    assert config("--bin-dir", "/usr/local/bin").returncode == 2


# --- on a node ------------------------------------------------------------------------------------


@pytest.mark.every_form
def test_the_bin_dir_is_the_running_kubelets_or_the_installed_one(node: Node) -> None:
    command = ("config", "--validate", CONFIG, "--output", "json")
    content = json.loads(node.run(*command).check().stdout)
    assert content["bin_dir"] == BIN_DIR
    node.cloud.ns.path(f"{BIN_DIR}/{NAME}").unlink()
    assert node.run(*command).returncode == 1
    node.flags = None
    node.add_installation()
    content = json.loads(node.run(*command).check().stdout)
    assert content["bin_dir"] == "/usr/local/opt/bin"
    # A kubelet is installed, but not the program: the default folder.
    node.before += (
        f"rm -r /usr/local/opt; mkdir /usr/local/bin; cp {FOLDER}/kubelet /usr/local/bin\n"
    )
    content = json.loads(node.run(*command).stdout)
    assert content["bin_dir"] == "/usr/local/bin"
    assert content["accepted"] is False


def test_the_rules_are_those_of_the_running_kubelet(node: Node) -> None:
    node.config(worker.config(more=TOKEN_ATTRIBUTES))
    assert node.run("config", "--validate", CONFIG).returncode == 0
    kubelet_at(node.cloud.ns.path(KUBELET), "1.33.5")
    assert b"known since kubelet 1.34" in node.run("config", "--validate", CONFIG).stdout
