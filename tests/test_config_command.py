"""`config` writes a CredentialProviderConfig that covers the node's registries, and judges others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from provider.kubelet_config import load, matches, validate
from provider.realm import REALM_DOMAINS
from tests.cloud.harness import Cloud
from tests.cloud.model import ACME, LANGLEY, Fault, Imds
from tests.cloud.namespace import REPOSITORY, Completed
from tests.conftest import Program

Config = Callable[..., Completed]


@pytest.fixture
def config(cloud: Cloud, program: Program) -> Config:
    return lambda *args: program.run(cloud, "config", *args)


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
    assert result.returncode == 10
    assert b"No such file" in result.stderr
