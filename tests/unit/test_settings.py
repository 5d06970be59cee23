"""The table of settings."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.errors import BadSettings
from provider.settings import SETTINGS, Settings, settings_from_environment

_GRAMMARS = {
    "REGISTRY_TOKEN_PATH": re.compile(r"/[A-Za-z0-9._~/-]+", re.A),
    "DEFAULT_USER": re.compile(r"[!-9;-~]+", re.A),
    "DEADLINE_SECONDS": re.compile(r"[0-9]{1,2}(\.[0-9]{1,3})?", re.A),
}


def test_the_go_providers_settings_are_the_defaults() -> None:
    original = {
        "REGISTRY_TOKEN_PATH": "/20180419/docker/token",
        "DEFAULT_USER": "BEARER_TOKEN",
        "REGISTRY_PROTOCOL": "https",
        "OCIR_AUTH_METHOD": "INSTANCE_PRINCIPAL",
        "TOKEN_VALIDATION": "Enabled",
        "VERIFY_TOKEN_AUTH": "false",
    }
    assert settings_from_environment(original) == Settings() == settings_from_environment({})


def test_every_setting_has_a_field_a_variable_and_a_key() -> None:
    assert [key.field for key in SETTINGS] == list(Settings._fields)
    for names in ([k.env for k in SETTINGS], [k.yaml for k in SETTINGS]):
        assert len(set(names)) == len(SETTINGS)


@pytest.mark.parametrize("name", _GRAMMARS)
@pytest.mark.parametrize(
    "text",
    [
        "/",
        "/a",
        "a/b",
        "/%61",
        "/a\n",
        "/\u212a",
        "u",
        "u:v",
        "u v",
        "\x7f",
        "\u0661",
        "1",
        "1.",
        ".5",
        "01",
        "007",
        "1.123",
        "1.1234",
        "1e1",
        "+1",
        "0",
        "0.999",
        "55",
        "55.001",
    ],
)
def test_values_that_are_nearly_right(name: str, text: str) -> None:
    _check_grammar(name, text)


@pytest.mark.parametrize("name", _GRAMMARS)
@given(st.text("/aZ09._~-:%+e !~\x7f\n\u0661\u212a", min_size=1, max_size=9))
def test_values(name: str, text: str) -> None:
    _check_grammar(name, text)


def _check_grammar(name: str, text: str) -> None:
    well_formed = bool(_GRAMMARS[name].fullmatch(text))
    if name == "DEADLINE_SECONDS":
        well_formed = well_formed and 1 <= float(text) <= 55
    if well_formed:
        settings_from_environment({name: text})
    else:
        with pytest.raises(BadSettings):
            settings_from_environment({name: text})


@pytest.mark.parametrize("separator", [",", " ", ", ", " ,\t", "\n", "\u3000", "\x1c"])
def test_separators_of_hosts(separator: str) -> None:
    text = separator.join(["", "a.b.io", "c.d.io:1", ""])
    hosts = settings_from_environment({"OCIR_HOSTS": text}).ocir_hosts
    assert [(host.labels, host.port) for host in hosts] == [
        (("a", "b", "io"), None),
        (("c", "d", "io"), 1),
    ]
