"""The table of settings."""

from provider.settings import SETTINGS, Settings, settings_from_environment


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
