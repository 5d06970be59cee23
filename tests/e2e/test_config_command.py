"""`config` writes a CredentialProviderConfig that covers the node's registries, and judges others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provider.commands.kubelet_config import load, matches, validate
from provider.ocir.hosts import REALM_DOMAINS
from tests.cloud.harness import Cloud
from tests.cloud.model import ACME, LANGLEY, Fault, Imds
from tests.cloud.namespace import REPOSITORY, Completed
from tests.conftest import Program
from tests.e2e.test_check import ALONE

Config = Callable[..., Completed]


@pytest.fixture
def config(cloud: Cloud, program: Program) -> Config:
    return lambda *args: run(cloud, program, *args)


def run(cloud: Cloud, program: Program, *args: str, stdin: bytes = b"") -> Completed:
    """Run it where no kubelet of another test is."""
    argv = [*ALONE, *program.argv, "config", *args]
    return cloud.ns.run(argv, stdin=stdin, env=program.env)


def matched(text: str, image: str) -> bool:
    (provider,) = load(text).providers
    return any(matches(pattern, image) for pattern in provider.match_images)


def test_on_an_instance_the_config_is_for_the_realm_that_its_metadata_names(
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


def test_off_oci_the_config_is_for_all_realms(cloud: Cloud, config: Config) -> None:
    cloud.control.fault("imds", Fault("refused"))
    assert config().check().stdout == config("--realm", "all").check().stdout


def test_the_config_of_the_release_is_what_the_command_prints_for_all_realms(
    cloud: Cloud, config: Config
) -> None:
    released = REPOSITORY / "packaging/credential-provider-config.yaml"
    assert config("--realm", "all").check().stdout == released.read_bytes()
    assert cloud.control.report().connections == {}


def test_the_released_config_covers_every_realm_and_the_kubelet_takes_it() -> None:
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


def test_hosts_of_the_user_s_are_matched_and_allowed_to_the_program(config: Config) -> None:
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
def test_a_realm_or_a_host_that_is_none_is_refused(config: Config, args: tuple[str, ...]) -> None:
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


def test_a_config_that_the_kubelet_takes_is_said_to_be_one(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(GOOD)
    assert config("--validate", str(file)).check().stdout.decode().endswith("takes this config\n")


def test_a_config_that_the_kubelet_refuses_is_told_with_the_field_and_exit_code_1(
    config: Config, tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(BAD)
    result = config("--validate", str(file))
    assert result.returncode == 1
    text = result.stdout.decode()
    assert "fatal: providers[0].defaultCacheDuratoin: strict decoding error: unknown field" in text
    assert text.endswith("refuses this config, and does not start\n")
    result = config("--validate", str(file), "--output", "json")
    assert result.returncode == 1
    content = json.loads(result.stdout)
    assert content["accepted"] is False
    assert content["findings"][0]["severity"] == "fatal"


def test_a_config_is_judged_by_the_kubelet_version_that_is_named(
    config: Config, tmp_path: Path
) -> None:
    token = "    tokenAttributes: {serviceAccountTokenAudience: x, requireServiceAccount: true}\n"
    file = tmp_path / "config.yaml"
    file.write_text(GOOD + token)
    assert config("--validate", str(file), "--kubelet-version", "1.33").returncode == 0
    assert config("--validate", str(file), "--kubelet-version", "v1.34.2").returncode == 1
    assert config("--validate", str(file)).returncode == 1
    assert config("--validate", str(file), "--kubelet-version", "new").returncode == 2


def test_a_directory_is_judged_as_a_whole(config: Config, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(GOOD)
    (tmp_path / "README").write_text("not: [a config")
    assert config("--validate", str(tmp_path)).returncode == 0
    assert config("--validate", str(tmp_path), "--kubelet-version", "1.33").returncode == 1
    (tmp_path / "b.yaml").write_text(GOOD)
    result = config("--validate", str(tmp_path))
    assert result.returncode == 1
    assert b"duplicate provider name" in result.stdout


def test_a_file_that_is_not_there_is_an_error_of_its_own(config: Config) -> None:
    result = config("--validate", "/nowhere/config.yaml")
    assert result.returncode == 16
    assert b"config-unreadable: /nowhere/config.yaml: No such file" in result.stderr


def test_a_file_is_judged_whole_or_not_at_all(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD + "#" * (1 << 20) + "\nbad: [")
    result = config("--validate", str(path))
    assert result.returncode == 16
    assert b"larger than 1 MiB" in result.stderr


# --- the gate before a restart of the kubelet ---------------------------------------------------


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
    """Judge a config's text beside programs; the exit code must say what the JSON says."""

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
def test_a_config_whose_program_is_there_passes_the_gate(judge: Judge, bin_dir: Path) -> None:
    content = judge(GOOD)
    assert content["findings"] == []
    assert content["accepted"] is content["holds"] is True
    assert content["bin_dir"] == str(bin_dir)


@pytest.mark.every_form
def test_a_missing_program_and_one_without_run_bit_are_fatal(judge: Judge, bin_dir: Path) -> None:
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


def test_a_program_of_another_provider_is_judged_too(judge: Judge, bin_dir: Path) -> None:
    other = GOOD + OTHER
    assert paths(judge(other), "fatal") == ["providers[1].name"]
    (bin_dir / "ecr").write_text("")
    (bin_dir / "ecr").chmod(0o755)
    assert judge(other)["findings"] == []


@pytest.mark.every_form
def test_a_misspelt_provider_is_told_with_the_right_name(judge: Judge, tmp_path: Path) -> None:
    misspelt = GOOD.replace(f"name: {NAME}", "name: oke-credentials-provider")
    assert misspelt != GOOD
    content = judge(misspelt)
    assert content["accepted"] is False
    assert content["findings"][0]["hint"] == f"did you mean {NAME}?"
    # Where no kubelet is, the name is still none of this program's.
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
def test_what_lets_the_kubelet_start_and_pulls_fail_does_not_pass(
    judge: Judge, text: str, path: str
) -> None:
    content = judge(text)
    assert content["accepted"] is True
    assert paths(content, "error") == [path]


def test_the_text_says_which_of_both_it_is(config: Config, bin_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(GOOD.replace('"INSTANCE_PRINCIPAL"', '"INSTANCE_PRINCIPLE"'))
    result = config("--validate", str(file), "--bin-dir", str(bin_dir))
    assert result.returncode == 1
    assert result.stdout.decode().endswith("takes this config, but pulls from OCIR fail with it\n")
    file.write_text(GOOD)
    assert b"not judged: the programs" in config("--validate", str(file)).check().stdout


def test_a_config_for_dedicated_regions_and_variables_of_others_pass(judge: Judge) -> None:
    hosts = {"OCIR_HOSTS": "ocir.my.cloud", "KUBERNETES_SERVICE_PORT": "443", "TZ": "UTC"}
    patterns = "      - ocir.my.cloud\n"
    text = re.sub(r"(      - .*ocir.*\n)+", patterns, env(**hosts), count=1)
    assert "*.ocir.io" not in load(text).providers[0].match_images
    assert judge(text)["findings"] == []


@pytest.mark.every_form
def test_a_config_can_be_piped_in(cloud: Cloud, program: Program, bin_dir: Path) -> None:
    args = ("--validate", "-", "--bin-dir", str(bin_dir))
    result = run(cloud, program, *args, stdin=GOOD.encode()).check()
    assert result.stdout == b"-: the kubelet takes this config\n"
    assert run(cloud, program, *args, stdin=BAD.encode()).returncode == 1
    assert run(cloud, program, *args, stdin=b"\xff\xfe").returncode == 16


def test_a_bin_dir_without_a_config_to_judge_is_refused(config: Config) -> None:
    assert config("--bin-dir", "/usr/local/bin").returncode == 2
