"""Write, decode and validate a CredentialProviderConfig."""

import json
import re
from typing import Any

import pytest
import yaml

from provider.commands.kubelet_config import (
    ConfigError,
    CredentialProvider,
    CredentialProviderConfig,
    Finding,
    TokenAttributes,
    load,
    matches,
    merge,
    patterns_that_match,
    render,
    validate,
    validate_directory,
)

WORKLOAD = TokenAttributes(audience="oci")
OLDER = ("v1beta1", "v1alpha1")
PATTERNS = [
    *("gcr.io", "*.azurecr.io", "*.*.registry.io", "registry.io:8080/path", "localhost", "k8s.*"),
    *("app*.k8s.io", "10.0.0.1:5000", "[::1]:5000/ns", "registry:5000", "myocir.io"),
]


def document(**changes: Any) -> dict[str, Any]:
    """A valid config with changed fields in its provider. None removes a field."""
    provider: dict[str, Any] = {
        "name": "oke-credential-provider",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "matchImages": ["*.ocir.io"],
        "defaultCacheDuration": "5m",
    }
    provider |= changes
    return {
        "apiVersion": "kubelet.config.k8s.io/v1",
        "kind": "CredentialProviderConfig",
        "providers": [{key: value for key, value in provider.items() if value is not None}],
    }


def token_document(**changes: Any) -> dict[str, Any]:
    token: dict[str, Any] = {
        "serviceAccountTokenAudience": "oci",
        "cacheType": "ServiceAccount",
        "requireServiceAccount": True,
    }
    token |= changes
    return document(
        tokenAttributes={key: value for key, value in token.items() if value is not None}
    )


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def with_value(value: str) -> str:
    """A config with a variable whose value is this YAML."""
    return render(env={"A": "VALUE"}).replace('"VALUE"', value)


def both_forms(config: dict[str, Any]) -> list[str]:
    return [json.dumps(config), yaml.safe_dump(config)]


class TestRender:
    @pytest.mark.parametrize("host", ["docker.io", "ocir.io", "fra.ocir.io.evil.com", "ghcr.io"])
    def test_the_default_matches_no_other_registry(self, host: str) -> None:
        assert not patterns_that_match(load(render()), f"{host}/ns/repo")

    def test_the_order_of_variables_does_not_change_the_text(self) -> None:
        assert render(env={"B": "2", "A": "1"}) == render(env={"A": "1", "B": "2"})

    def test_additional_hosts_appear_once(self) -> None:
        patterns = load(render(hosts=["ocir.my.cloud:5000"] * 2)).providers[0].match_images
        assert [*patterns].count("ocir.my.cloud:5000") == 1

    @pytest.mark.parametrize("host", ["https://fra.ocir.io", "fra.ocir.io/*", "a b", "x:y"])
    def test_a_host_that_never_matches_is_rejected(self, host: str) -> None:
        with pytest.raises(ConfigError, match="matchImages"):
            render(hosts=[host])

    def test_variables_survive_decoding(self) -> None:
        env = {"LOG": 'a "quoted" yes: #no', "NUMBER": "017", "ITEM": "- x"}
        assert dict(load(render(env=env)).providers[0].env) == env

    def test_workload_identity_for_1_34_and_newer(self) -> None:
        text = render(token_attributes=WORKLOAD)
        assert validate(text) == validate(text, kubelet_version="1.34") == []
        assert load(text).providers[0].token_attributes == WORKLOAD
        assert only(validate(text, kubelet_version="1.33")[:1]).severity == "fatal"

    def test_workload_identity_for_1_33_needs_the_feature_gate_and_no_cache_type(self) -> None:
        text = render(token_attributes=TokenAttributes(audience="oci", cache_type=""))
        assert "cacheType" not in text
        found = only(validate(text, kubelet_version="v1.33.4"))
        assert found.severity == "warning"
        assert "KubeletServiceAccountTokenForCredentialProviders=true" in found.hint
        assert only(validate(text)).path == "providers[0].tokenAttributes.cacheType"


class TestDecoding:
    @pytest.mark.parametrize("text", both_forms(document()))
    def test_yaml_and_json_are_read(self, text: str) -> None:
        assert validate(text) == []
        assert load(text) == CredentialProviderConfig(
            (
                CredentialProvider(
                    name="oke-credential-provider",
                    match_images=("*.ocir.io",),
                    default_cache_duration=300.0,
                    api_version="credentialprovider.kubelet.k8s.io/v1",
                ),
            )
        )

    @pytest.mark.parametrize(
        "changes",
        [
            *({"apiVersion": f"kubelet.config.k8s.io/{version}"} for version in OLDER),
            *({"args": None}, {"env": None}, {"tokenAttributes": None}),
            *({"defaultCacheDuration": "0s"}, {"matchImages": PATTERNS}),
        ],
    )
    def test_a_valid_config(self, changes: dict[str, Any]) -> None:
        config = document()
        level = config if "apiVersion" in changes else config["providers"][0]
        level.update(changes)
        for text in both_forms(config):
            assert validate(text) == []

    @pytest.mark.parametrize("version", OLDER)
    def test_older_config_versions_have_no_token_attributes(self, version: str) -> None:
        config = token_document() | {"apiVersion": f"kubelet.config.k8s.io/{version}"}
        found = only(validate(json.dumps(config)))
        assert str(found) == "providers[0].tokenAttributes: unknown field"

    @pytest.mark.parametrize(
        ("changes", "path", "message"),
        [
            ({"kind": "Pod"}, "kind", 'unknown kind "Pod"'),
            ({"kind": None}, "kind", "Object 'Kind' is missing"),
            ({"apiVersion": "v1"}, "apiVersion", 'unknown version "v1"'),
            ({"apiVersion": ""}, "apiVersion", "Object 'apiVersion' is missing"),
            ({"apiVersion": 1}, "apiVersion", "must be a string, not a number"),
            ({"providers": None}, "providers", "required"),
            ({"providers": []}, "providers", "required"),
            ({"providers": {}}, "providers", "must be a list, not an object"),
            ({"extra": 1}, "extra", "unknown field"),
        ],
    )
    def test_errors_of_the_top_level(
        self, changes: dict[str, Any], path: str, message: str
    ) -> None:
        for text in both_forms(document() | changes):
            found = only(validate(text))
            assert (found.severity, found.path) == ("fatal", path)
            assert message in found.message

    @pytest.mark.parametrize(
        ("field", "hint"),
        [
            ("MatchImages", "case matters: write matchImages"),
            ("matchImage", "did you mean matchImages?"),
            ("zzz", "the fields are name, matchImages"),
        ],
    )
    def test_an_unknown_field_has_a_hint(self, field: str, hint: str) -> None:
        found = only(validate(json.dumps(document(**{field: ["*.ocir.io"]}))))
        assert str(found) == f"providers[0].{field}: unknown field"
        assert hint in found.hint

    def test_a_misspelled_field_is_also_missing(self) -> None:
        text = json.dumps(document(matchImages=None, matchimages=["*.ocir.io"]))
        paths = [finding.path for finding in validate(text)]
        assert paths == ["providers[0].matchimages", "providers[0].matchImages"]

    def test_kind_in_wrong_case_is_an_unknown_field(self) -> None:
        config = document()
        config["Kind"] = config.pop("kind")
        assert only(validate(json.dumps(config))).path == "Kind"

    def test_a_duplicate_key_is_rejected_in_yaml_and_json(self) -> None:
        in_yaml = render().replace("    defaultCache", "    name: x\n    defaultCache")
        in_json = json.dumps(document()).replace('"name"', '"name": "x", "name"')
        for text in (in_yaml, in_json):
            assert str(only(validate(text))) == "providers[0].name: duplicate field"

    @pytest.mark.parametrize(
        "word", ["y", "No", "on", "OFF", "true", "017", "1_000", "1e3", "0x1F"]
    )
    def test_a_yaml_word_that_is_not_a_string_in_go_needs_quotes(self, word: str) -> None:
        found = only(validate(with_value(word)))
        assert found.path == "providers[0].env[0].value"
        assert found.hint == "put the value in quotes"
        assert validate(with_value(f'"{word}"')) == []

    @pytest.mark.parametrize("word", ["1:20", "2001-01-01", "tRUE", "1.2.3", "_1", "-", "a"])
    def test_a_yaml_word_that_is_a_string_in_go_needs_no_quotes(self, word: str) -> None:
        text = with_value(f"{word} " if word != "-" else "'-'")
        assert load(text).providers[0].env == (("A", word),)

    def test_a_tab_can_separate_key_and_value(self) -> None:
        assert validate(render().replace("Duration: ", "Duration:\t")) == []

    def test_anchors_and_merge_keys_are_followed(self) -> None:
        text = """\
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - &first
    name: one
    apiVersion: &version credentialprovider.kubelet.k8s.io/v1
    matchImages: [a.io]
    defaultCacheDuration: 5m
  - <<: {apiVersion: *version, defaultCacheDuration: 1h}
    name: two
    matchImages: [b.io]
"""
        assert [p.default_cache_duration for p in load(text).providers] == [300, 3600]
        overriding = text.replace("    name: two\n", "    name: two\n    apiVersion: x\n")
        assert validate(overriding)[0].message == "duplicate field"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "Object 'Kind' is missing"),
            ("---\n---\n" + render(), "Object 'Kind' is missing"),
            ("- a\n", "must be an object, not a list"),
            ("just words", "must be an object, not a string"),
            ("a: b: c", "not YAML: mapping values are not allowed here in line 1"),
            ("\tkind: x", "not YAML: "),
            ("{kind: CredentialProviderConfig}", "not JSON: "),
            (json.dumps(document()) + "x", "not JSON: "),
            ("a: \x00", "not YAML: "),
            ("a: *b", "not YAML: found undefined alias"),
            ("%YAML 1.2\n---\n" + render(), "the version must be 1.1"),
            ("%FOO\n---\n" + render(), "unknown directive %FOO in line 1"),
            ("? [a]\n: b", "a key is a list or a map"),
            ("<<: 1", "the value of << must be a map"),
            ("[" * 20_000, "nested too deeply"),
            ('{"a":' * 20_000, "nested too deeply"),
            ('{"a":' * 10_001 + "x", "nested too deeply"),
            ('{"a":"' + "[" * 20_000, "not JSON: "),
        ],
    )
    def test_a_text_that_is_not_a_config(self, text: str, message: str) -> None:
        fatal = [finding for finding in validate(text) if finding.severity == "fatal"]
        found = only(fatal)
        assert message in found.message

    @pytest.mark.parametrize(
        "value",
        [
            r'"\ud800"',
            r'"\ud83d\ude00"',
            r'"\U0000D800"',
            r'"\U00110000"',
            r'"\UFFFFFFFF"',
            r'"\/"',
            "!!binary abc",
            "!!binary 'YW Jj'",
            "!!bool x",
            "!!null x",
            "!!timestamp x",
        ],
    )
    def test_a_value_that_gos_yaml_rejects(self, value: str) -> None:
        """sigs.k8s.io/yaml 1.4, which kubelets use, rejects each of these values."""
        found = only(validate(with_value(value)))
        assert (found.severity, found.path) == ("fatal", "")
        assert found.message.startswith("not YAML: ")

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            ("!!binary YWJj", "abc"),
            ('!!binary "YW\\nJj"', "abc"),
            ("!!str 5", "5"),
            ("!x 5", "5"),
            (r'"\U0001F600"', "\U0001f600"),
        ],
    )
    def test_a_value_that_gos_yaml_accepts(self, value: str, text: str) -> None:
        """The results of sigs.k8s.io/yaml 1.4."""
        assert load(with_value(value)).providers[0].env == (("A", text),)

    @pytest.mark.parametrize(
        "second", ["---\nfoo: 1", f"---\n{render()}", "---\n[", "---\n", "...\n%YAML 3.0\n---\n"]
    )
    def test_a_second_document_is_ignored_with_a_warning(self, second: str) -> None:
        found = only(validate(render() + second))
        assert found.severity == "warning"
        assert "only the first YAML document" in found.message

    def test_a_lone_surrogate_in_json_is_replaced(self) -> None:
        text = json.dumps(document()).replace('"name"', r'"\ud800": 1, "name"')
        only(validate(text)).message.encode()

    def test_load_raises_the_decoders_findings(self) -> None:
        with pytest.raises(ConfigError, match="unknown field") as caught:
            load(json.dumps(document(extra=1)))
        assert caught.value.findings[0].path == "providers[0].extra"


class TestRules:
    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("name", 5, ": must be a string, not a number"),
            ("name", True, ": must be a string, not a bool"),
            ("matchImages", "*.ocir.io", ": must be a list, not a string"),
            ("matchImages", [1], "[0]: must be a string, not a number"),
            ("matchImages", [["x"]], "[0]: must be a string, not a list"),
            ("args", {"a": "b"}, ": must be a list, not an object"),
            ("defaultCacheDuration", 300, ": must be a duration, not a number"),
            ("defaultCacheDuration", "300", ': "300" is not a duration'),
            ("env", [{"name": "A", "value": 1}], "[0].value: must be a string, not a number"),
            ("env", {"A": "1"}, ": must be a list, not an object"),
            ("tokenAttributes", "oci", ": must be an object, not a string"),
            ("name", "a/b", ": the name contains a slash"),
            ("name", "a b", ": the name contains a space"),
            ("name", "a\0b", ": the name contains a NUL character"),
            ("name", ".", ': the name cannot be "."'),
            ("name", "..", ': the name cannot be ".."'),
            ("name", None, ": required field is missing"),
            ("apiVersion", None, ": required field is missing"),
            ("apiVersion", "v1", ': unknown version "v1"'),
            ("matchImages", None, ": required field is missing"),
            ("matchImages", [], ": required field is missing"),
            ("defaultCacheDuration", None, ": required field is missing"),
            ("defaultCacheDuration", "-1m", ": the duration is negative"),
        ],
    )
    def test_each_field_of_a_provider(self, field: str, value: Any, message: str) -> None:
        for text in both_forms(document(**{field: value})):
            found = only(validate(text))
            assert (found.severity, str(found)) == ("fatal", f"providers[0].{field}{message}")

    def test_a_duplicate_name_is_rejected(self) -> None:
        config = document()
        config["providers"] *= 2
        found = only(validate(json.dumps(config)))
        assert found.path == "providers[1].name"
        assert found.message == 'duplicate provider name "oke-credential-provider"'

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("%invalid%", 'invalid escape "%in"'),
            ("fra.ocir.io:*", 'invalid port ":*"'),
            ("a:1:2", 'invalid port ":1:2"'),
            ("fra ocir.io", 'invalid character " " in the host'),
            ("[::1", "missing ]"),
            ("oraclecloud[0-9].com", "invalid IPv6 address"),
            ("[fra].ocir.io", 'invalid port ".ocir.io"'),
            ("[abc]", "invalid IPv6 address"),
            ("fra.ocir.io\n", "control character"),
            ("a b@fra.ocir.io", "invalid character before @"),
            ("fra.ocir.io/%zz", 'invalid escape "%zz"'),
            ("fra.ocir.io/a#%zz", 'invalid escape "%zz"'),
        ],
    )
    def test_a_malformed_pattern_is_fatal(self, pattern: str, message: str) -> None:
        found = only(validate(json.dumps(document(matchImages=["*.ocir.io", pattern]))))
        assert (found.severity, found.path) == ("fatal", "providers[0].matchImages[1]")
        assert found.message.endswith(message)
        assert not matches(pattern, "fra.ocir.io/ns/repo")

    @pytest.mark.parametrize(
        ("pattern", "reason"),
        [
            ("https://fra.ocir.io", "a pattern with a scheme never matches"),
            ("fra.ocir.io/*", "* is not a wildcard in a path"),
            ("fra.ocir.io/ns/repo:latest", "has no tag or digest"),
            ("fra.ocir.io/ns/repo@sha256:0", "and in a digest"),
            ("fra.ocir.io/NS", "in lower case"),
            ("fra.ocir.io?x", "after ? or #"),
            ("user@fra.ocir.io", "before @"),
            ("*", "a dot or a port"),
            ("fra_1.ocir.io", "no image has such a host"),
            ("", "no image has such a host"),
            ("[::1]", "no image has such a host"),
            ("*ocir.io", "this pattern has 2 labels and matches no OCIR host: they have 3"),
            ("ocir.io", "this pattern has 2 labels and matches no OCIR host: they have 3"),
            ("*.oci.oraclecloud.com", "has 4 labels and matches no OCIR host: they have 5"),
            ("*.oraclegovcloud.uk", "has 3 labels and matches no OCIR host: they have 5"),
        ],
    )
    def test_a_pattern_that_never_matches_is_a_warning(self, pattern: str, reason: str) -> None:
        found = only(validate(json.dumps(document(matchImages=[pattern]))))
        assert (found.severity, found.path) == ("warning", "providers[0].matchImages[0]")
        assert reason in found.message
        assert found.hint

    @pytest.mark.parametrize(
        ("changes", "field", "message"),
        [
            ({"serviceAccountTokenAudience": ""}, ".serviceAccountTokenAudience", "required"),
            ({"requireServiceAccount": None}, ".requireServiceAccount", "required"),
            ({"requireServiceAccount": "true"}, ".requireServiceAccount", "must be a bool"),
            ({"cacheType": None}, ".cacheType", "required"),
            ({"cacheType": "token"}, ".cacheType", 'unknown cache type "token"'),
            (
                {"requireServiceAccount": False, "requiredServiceAccountAnnotationKeys": ["a"]},
                ".requiredServiceAccountAnnotationKeys",
                "needs requireServiceAccount: true",
            ),
            (
                {"requiredServiceAccountAnnotationKeys": ["a", "a"]},
                ".requiredServiceAccountAnnotationKeys[1]",
                'duplicate annotation key "a"',
            ),
            (
                {
                    "requiredServiceAccountAnnotationKeys": ["a", "b"],
                    "optionalServiceAccountAnnotationKeys": ["b", "c"],
                },
                "",
                "annotation keys are both required and optional: b",
            ),
        ],
    )
    def test_token_attributes(self, changes: dict[str, Any], field: str, message: str) -> None:
        found = only(validate(json.dumps(token_document(**changes))))
        assert (found.severity, found.path) == ("fatal", f"providers[0].tokenAttributes{field}")
        assert message in found.message

    @pytest.mark.parametrize("version", OLDER)
    def test_token_attributes_need_v1_of_the_provider(self, version: str) -> None:
        config = token_document()
        config["providers"][0]["apiVersion"] = f"credentialprovider.kubelet.k8s.io/{version}"
        found = only(validate(json.dumps(config)))
        assert found.message == "needs v1 of the provider's apiVersion"

    @pytest.mark.parametrize(
        "key", ["a", "Example.COM/MyName", "a-b.c/d_e.f", "x" * 63, "x/y", "1", f"{'a' * 253}/b"]
    )
    def test_a_good_annotation_key(self, key: str) -> None:
        config = token_document(optionalServiceAccountAnnotationKeys=[key])
        assert validate(json.dumps(config)) == []

    @pytest.mark.parametrize(
        "key", ["", "a/", "/a", "a/b/c", "a-", "x" * 64, "-a/b", "a_b/c", f"{'a' * 254}/b", "a b"]
    )
    def test_a_bad_annotation_key(self, key: str) -> None:
        config = token_document(optionalServiceAccountAnnotationKeys=[key])
        found = only(validate(json.dumps(config)))
        assert found.path.endswith(".optionalServiceAccountAnnotationKeys[0]")
        assert "is not an annotation key" in found.message

    def test_kubelets_before_1_33_do_not_know_token_attributes(self) -> None:
        found = only(validate(json.dumps(token_document()), kubelet_version="1.32"))
        assert str(found) == "providers[0].tokenAttributes: unknown field"
        assert found.hint == "known since kubelet 1.33"

    @pytest.mark.parametrize("version", ["", "latest", "34", "1", "x1.34"])
    def test_a_malformed_version_is_rejected(self, version: str) -> None:
        with pytest.raises(ValueError, match="not a kubelet version"):
            validate(render(), kubelet_version=version)


class TestDirectory:
    ONE = json.dumps(document(name="one"))
    TWO = json.dumps(document(name="two"))
    EMPTY = json.dumps(document() | {"providers": []})

    def test_files_are_merged_in_the_order_of_their_names(self) -> None:
        files = {"20.yml": self.TWO, "10.json": self.ONE, "README": "x", "30.yaml": self.EMPTY}
        assert [provider.name for provider in merge(files).providers] == ["one", "two"]
        assert validate_directory(files) == []

    def test_a_duplicate_name_is_rejected(self) -> None:
        files = {"a.yaml": self.ONE, "b.yaml": self.ONE}
        said = 'duplicate provider name "one"'
        with pytest.raises(ConfigError, match=re.escape(said)):
            merge(files)
        found = only(validate_directory(files))
        assert (found.severity, found.path, found.message) == ("fatal", "b.yaml: providers", said)

    def test_a_duplicate_name_in_one_file_is_reported_once(self) -> None:
        config = document()
        config["providers"] *= 2
        assert only(validate_directory({"a.yaml": json.dumps(config)})).severity == "fatal"
        with pytest.raises(ConfigError, match="duplicate provider name"):
            merge({"a.yaml": json.dumps(config)})

    @pytest.mark.parametrize("files", [{}, {"config.txt": "x"}])
    def test_a_directory_without_configs_is_rejected(self, files: dict[str, str]) -> None:
        found = only(validate_directory(files))
        assert found.message == "the directory has no config files"

    def test_a_directory_without_providers_is_rejected(self) -> None:
        assert only(validate_directory({"a.yaml": self.EMPTY})).path == "providers"

    def test_kubelets_before_1_34_reject_a_directory(self) -> None:
        found = only(validate_directory({"a.yaml": self.ONE}, kubelet_version="1.33"))
        assert "needs kubelet 1.34" in found.message
