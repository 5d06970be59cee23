"""CredentialProviderConfig: what is rendered, what is refused, and what matches."""

import json
import re
import string
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provider.commands.kubelet_config import (
    ConfigError,
    CredentialProvider,
    CredentialProviderConfig,
    Finding,
    TokenAttributes,
    load,
    match_images,
    matches,
    merge,
    parse_go_duration,
    patterns_that_match,
    providers_for,
    render,
    suggest_pattern,
    validate,
    validate_directory,
)

OCIR_HOSTS = [
    "fra.ocir.io",
    "eu-frankfurt-1.ocir.io",
    "ocir.eu-frankfurt-1.oci.oraclecloud.com",
    "ocir.us-langley-1.oci.oraclegovcloud.com",
    "ocir.uk-gov-london-1.oci.oraclegovcloud.uk",
    "ocir.eu-frankfurt-2.oci.oraclecloud.eu",
    "ocir.ap-chiyoda-1.oci.oraclecloud8.com",
    "ocir.eu-budapest-1.oci.oraclecloud52.com",
]
WORKLOAD = TokenAttributes(audience="oci")


def document(**changes: Any) -> dict[str, Any]:
    """A config that the kubelet accepts, with fields of its one provider changed.

    None takes a field away.
    """
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


def both_forms(config: dict[str, Any]) -> list[str]:
    return [json.dumps(config), yaml.safe_dump(config)]


class TestRender:
    def test_the_default_has_nothing_against_it(self) -> None:
        assert validate(render()) == []

    @pytest.mark.parametrize("host", OCIR_HOSTS)
    def test_the_default_covers_every_host_form_of_ocir(self, host: str) -> None:
        assert patterns_that_match(load(render()), f"{host}/ns/repo")

    @pytest.mark.parametrize("host", ["docker.io", "ocir.io", "fra.ocir.io.evil.com", "ghcr.io"])
    def test_the_default_leaves_other_registries_alone(self, host: str) -> None:
        assert not patterns_that_match(load(render()), f"{host}/ns/repo")

    def test_the_same_arguments_give_the_same_text(self) -> None:
        first = render(env={"B": "2", "A": "1"}, args=["x"])
        assert first == render(env={"A": "1", "B": "2"}, args=["x"])

    def test_a_realm_has_its_own_hosts_alone(self) -> None:
        config = load(render(realm_domains=["oraclegovcloud.com"]))
        assert config.providers[0].match_images == ("ocir.*.oci.oraclegovcloud.com",)

    def test_only_the_commercial_realm_has_short_names(self) -> None:
        assert match_images(["oraclecloud.com"]) == ("*.ocir.io", "ocir.*.oci.oraclecloud.com")

    def test_hosts_of_the_user_are_added_once(self) -> None:
        config = load(render(hosts=["ocir.my.cloud:5000", "ocir.my.cloud:5000"]))
        assert config.providers[0].match_images[-1] == "ocir.my.cloud:5000"
        assert config.providers[0].match_images.count("ocir.my.cloud:5000") == 1

    @pytest.mark.parametrize("host", ["https://fra.ocir.io", "fra.ocir.io/*", "a b", "x:y"])
    def test_a_host_that_would_not_match_is_refused(self, host: str) -> None:
        with pytest.raises(ConfigError, match="matchImages"):
            render(hosts=[host])

    def test_a_duration_without_a_unit_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="missing unit in duration"):
            render(default_cache_duration="12")

    def test_arguments_and_environment_come_back_as_they_were(self) -> None:
        env = {"LOG": 'a "quoted" yes: #no', "NUMBER": "017"}
        provider = load(render(args=["--v=5", "- x"], env=env)).providers[0]
        assert provider.args == ("--v=5", "- x")
        assert dict(provider.env) == env

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

    def test_annotation_keys_are_written(self) -> None:
        token = TokenAttributes(
            audience="oci",
            required_annotation_keys=("example.com/a",),
            optional_annotation_keys=("b", "c"),
        )
        assert load(render(token_attributes=token)).providers[0].token_attributes == token


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

    @pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha1"])
    def test_every_version_of_the_config_is_known(self, version: str) -> None:
        config = document() | {"apiVersion": f"kubelet.config.k8s.io/{version}"}
        assert validate(json.dumps(config)) == []

    @pytest.mark.parametrize("version", ["v1beta1", "v1alpha1"])
    def test_older_config_versions_have_no_token_attributes(self, version: str) -> None:
        config = token_document() | {"apiVersion": f"kubelet.config.k8s.io/{version}"}
        found = only(validate(json.dumps(config)))
        assert found.message == (
            'strict decoding error: unknown field "providers[0].tokenAttributes"'
        )

    @pytest.mark.parametrize(
        ("changes", "path", "message"),
        [
            ({"kind": "Pod"}, "kind", 'no kind "Pod" is registered for version'),
            ({"kind": None}, "kind", "Object 'Kind' is missing"),
            ({"apiVersion": "v1"}, "apiVersion", "no kind"),
            ({"apiVersion": ""}, "apiVersion", "Object 'apiVersion' is missing"),
            ({"apiVersion": 1}, "apiVersion", "json parse error"),
            ({"providers": None}, "providers", "Required value: at least 1 item in plugins"),
            ({"providers": []}, "providers", "Required value: at least 1 item in plugins"),
            ({"providers": {}}, "providers", "cannot unmarshal object into Go struct field"),
            ({"extra": 1}, "extra", 'strict decoding error: unknown field "extra"'),
        ],
    )
    def test_the_file_as_a_whole(self, changes: dict[str, Any], path: str, message: str) -> None:
        for text in both_forms(document() | changes):
            found = only(validate(text))
            assert (found.severity, found.path) == ("fatal", path)
            assert message in found.message

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("name", 5, "json: cannot unmarshal number into Go struct field "),
            ("name", True, "CredentialProvider.providers.name of type string"),
            ("matchImages", "*.ocir.io", "cannot unmarshal string"),
            ("matchImages", [1], "of type string"),
            ("matchImages", [["x"]], "cannot unmarshal array"),
            ("args", {"a": "b"}, "cannot unmarshal object"),
            ("defaultCacheDuration", 300, "cannot unmarshal number"),
            ("defaultCacheDuration", "300", 'time: missing unit in duration "300"'),
            ("defaultCacheDuration", "5 m", 'time: unknown unit " m" in duration "5 m"'),
            ("defaultCacheDuration", "1d", 'time: unknown unit "d" in duration "1d"'),
            ("defaultCacheDuration", "", 'time: invalid duration ""'),
            ("env", [{"name": "A", "value": 1}], "ExecEnvVar.providers.env.value of type string"),
            ("env", {"A": "1"}, "of type []v1.ExecEnvVar"),
            ("tokenAttributes", "oci", "of type v1.ServiceAccountTokenAttributes"),
        ],
    )
    def test_a_wrong_type_or_duration_is_one_fatal_finding(
        self, field: str, value: Any, message: str
    ) -> None:
        for text in both_forms(document(**{field: value})):
            found = only(validate(text))
            assert found.severity == "fatal"
            assert found.path.startswith(f"providers[0].{field}")
            assert message in found.message

    @pytest.mark.parametrize(
        ("field", "hint"),
        [
            ("MatchImages", "upper and lower case matter: write matchImages"),
            ("matchImage", "did you mean matchImages?"),
            ("zzz", "the fields here are name, matchImages"),
        ],
    )
    def test_an_unknown_field_is_told_with_what_was_meant(self, field: str, hint: str) -> None:
        found = only(validate(json.dumps(document(**{field: ["*.ocir.io"]}))))
        assert found.message == f'strict decoding error: unknown field "providers[0].{field}"'
        assert hint in found.hint

    def test_a_wrongly_spelt_field_is_also_missing(self) -> None:
        text = json.dumps(document(matchImages=None, matchimages=["*.ocir.io"]))
        paths = [finding.path for finding in validate(text)]
        assert paths == ["providers[0].matchimages", "providers[0].matchImages"]

    def test_kind_in_wrong_case_is_an_unknown_field(self) -> None:
        config = document()
        config["Kind"] = config.pop("kind")
        assert only(validate(json.dumps(config))).path == "Kind"

    def test_a_key_that_stands_twice_is_refused_in_yaml_and_json(self) -> None:
        in_yaml = render().replace("    defaultCache", "    name: x\n    defaultCache")
        assert 'key "name" already set in map' in only(validate(in_yaml)).message
        in_json = json.dumps(document()).replace('"name"', '"name": "x", "name"')
        found = only(validate(in_json))
        assert found.message == 'strict decoding error: duplicate field "providers[0].name"'

    @pytest.mark.parametrize("field", ["args", "env", "tokenAttributes"])
    def test_null_is_as_good_as_absent(self, field: str) -> None:
        config = document()
        config["providers"][0][field] = None
        for text in both_forms(config):
            assert validate(text) == []

    @pytest.mark.parametrize(
        "word", ["y", "No", "on", "OFF", "true", "017", "1_000", "1e3", "0x1F"]
    )
    def test_a_yaml_word_that_go_reads_as_no_string_must_be_quoted(self, word: str) -> None:
        found = only(validate(render(args=["WORD"]).replace('"WORD"', word)))
        assert found.path == "providers[0].args[0]"
        assert found.hint == "put the value in quotes"
        assert validate(render(args=[word])) == []

    @pytest.mark.parametrize("word", ["1:20", "2001-01-01", "tRUE", "1.2.3", "_1", "-", "a"])
    def test_a_yaml_word_that_go_reads_as_a_string_needs_no_quotes(self, word: str) -> None:
        text = render(args=["WORD"]).replace('"WORD"', f"{word} " if word != "-" else "'-'")
        assert load(text).providers[0].args == (word,)

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
        assert "already set in map" in validate(overriding)[0].message

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "Object 'Kind' is missing"),
            ("# nothing\n", "Object 'Kind' is missing"),
            ("---\n---\n" + render(), "Object 'Kind' is missing"),
            ("- a\n", "cannot unmarshal array"),
            ("just words", "cannot unmarshal string"),
            ("a: b: c", "yaml: line 1: mapping values are not allowed here"),
            ("\tkind: x", "yaml: line 1:"),
            ("{kind: CredentialProviderConfig}", "couldn't get version/kind; json parse error"),
            (json.dumps(document()) + "x", "couldn't get version/kind; json parse error"),
            ("a: \x00", "yaml:"),
            ("a: *b", "yaml: line 1: found undefined alias"),
            ("%YAML 1.2\n---\n" + render(), "found incompatible YAML document"),
            ("? [a]\n: b", "yaml: invalid map key"),
            ("<<: 1", "map merge requires map"),
            ("[" * 20_000, "exceeded max depth"),
            ('{"a":' * 20_000, "exceeded max depth"),
            ('{"a":' * 10_001 + "x", "exceeded max depth"),
            ('{"a":"' + "[" * 20_000, "json parse error"),
        ],
    )
    def test_what_is_no_config_at_all(self, text: str, message: str) -> None:
        fatal = [finding for finding in validate(text) if finding.severity == "fatal"]
        found = only(fatal)
        assert message in found.message

    @pytest.mark.parametrize(
        "second", ["---\nfoo: 1", f"---\n{render()}", "---\n[", "---\n", "...\n%YAML 3.0\n---\n"]
    )
    def test_a_second_document_is_ignored_with_a_warning(self, second: str) -> None:
        found = only(validate(render() + second))
        assert found.severity == "warning"
        assert "first YAML document alone" in found.message

    def test_half_a_surrogate_pair_does_not_reach_the_findings(self) -> None:
        text = json.dumps(document()).replace('"name"', r'"\ud800": 1, "name"')
        only(validate(text)).message.encode()

    def test_load_raises_what_the_decoder_refuses(self) -> None:
        with pytest.raises(ConfigError, match="unknown field") as caught:
            load(json.dumps(document(extra=1)))
        assert caught.value.findings[0].path == "providers[0].extra"


class TestRules:
    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("name", "a/b", "Invalid value: \"a/b\": provider name cannot contain '/'"),
            ("name", "a b", 'Invalid value: "a b": provider name cannot contain spaces'),
            ("name", ".", "Invalid value: \".\": provider name cannot be '.'"),
            ("name", "..", "Invalid value: \"..\": provider name cannot be '..'"),
            ("name", None, "error inspecting binary executable"),
            ("apiVersion", None, "providers.apiVersion: Required value"),
            ("apiVersion", "v1", 'providers.apiVersion: Unsupported value: "v1"'),
            ("matchImages", None, "at least 1 item in matchImages is required"),
            ("matchImages", [], "at least 1 item in matchImages is required"),
            ("defaultCacheDuration", None, "providers.defaultCacheDuration: Required value"),
            ("defaultCacheDuration", "-1m", "must be greater than or equal to 0"),
        ],
    )
    def test_each_field_of_a_provider(self, field: str, value: Any, message: str) -> None:
        found = only(validate(json.dumps(document(**{field: value}))))
        assert (found.severity, found.path) == ("fatal", f"providers[0].{field}")
        assert message in found.message

    def test_a_cache_duration_of_nothing_is_allowed(self) -> None:
        assert validate(json.dumps(document(defaultCacheDuration="0s"))) == []

    def test_a_name_may_stand_once(self) -> None:
        config = document()
        config["providers"] *= 2
        found = only(validate(json.dumps(config)))
        assert found.path == "providers[1].name"
        assert found.message == 'providers.name: Duplicate value: "oke-credential-provider"'

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("%invalid%", 'parse "https://%invalid%": invalid URL escape "%in"'),
            ("fra.ocir.io:*", 'invalid port ":*" after host'),
            ("a:1:2", 'invalid port ":1:2" after host'),
            ("fra ocir.io", 'invalid character " " in host name'),
            ("[::1", "missing ']' in host"),
            ("oraclecloud[0-9].com", "invalid IP-literal"),
            ("[fra].ocir.io", 'invalid port ".ocir.io" after host'),
            ("[abc]", "invalid IP-literal"),
            ("fra.ocir.io\n", "invalid control character in URL"),
            ("a b@fra.ocir.io", "net/url: invalid userinfo"),
            ("fra.ocir.io/%zz", 'invalid URL escape "%zz"'),
            ("fra.ocir.io/a#%zz", 'invalid URL escape "%zz"'),
        ],
    )
    def test_a_pattern_that_the_kubelet_cannot_read_is_fatal(
        self, pattern: str, message: str
    ) -> None:
        found = only(validate(json.dumps(document(matchImages=["*.ocir.io", pattern]))))
        assert (found.severity, found.path) == ("fatal", "providers[0].matchImages[1]")
        assert found.message.endswith(message)
        assert not matches(pattern, "fra.ocir.io/ns/repo")

    @pytest.mark.parametrize(
        ("pattern", "reason"),
        [
            ("https://fra.ocir.io", "a pattern with a scheme never matches"),
            ("fra.ocir.io/*", "* is no wildcard in a path"),
            ("fra.ocir.io/ns/repo:latest", "without tag and digest"),
            ("fra.ocir.io/ns/repo@sha256:0", "in a digest is not compared"),
            ("fra.ocir.io/NS", "in lower case"),
            ("fra.ocir.io?x", "after ? or #"),
            ("user@fra.ocir.io", "before @"),
            ("*", "without a dot or a port"),
            ("fra_1.ocir.io", "no image has such a host"),
            ("", "no image has such a host"),
            ("[::1]", "no image has such a host"),
            ("*ocir.io", "have 3 dot-separated labels, this pattern has 2"),
            ("ocir.io", "have 3 dot-separated labels, this pattern has 2"),
            ("*.oci.oraclecloud.com", "have 5 dot-separated labels, this pattern has 4"),
            ("*.oraclegovcloud.uk", "have 5 dot-separated labels, this pattern has 3"),
        ],
    )
    def test_a_pattern_that_does_not_do_what_it_says_is_a_warning(
        self, pattern: str, reason: str
    ) -> None:
        found = only(validate(json.dumps(document(matchImages=[pattern]))))
        assert (found.severity, found.path) == ("warning", "providers[0].matchImages[0]")
        assert reason in found.message
        assert found.hint

    @pytest.mark.parametrize(
        "pattern",
        [
            "gcr.io",
            "*.azurecr.io",
            "*.*.registry.io",
            "registry.io:8080/path",
            "localhost",
            "k8s.*",
            "app*.k8s.io",
            "10.0.0.1:5000",
            "[::1]:5000/ns",
            "registry:5000",
            "myocir.io",
        ],
    )
    def test_patterns_of_the_field_have_nothing_against_them(self, pattern: str) -> None:
        assert validate(json.dumps(document(matchImages=[pattern]))) == []

    @pytest.mark.parametrize(
        ("changes", "field", "message"),
        [
            ({"serviceAccountTokenAudience": ""}, ".serviceAccountTokenAudience", "Required value"),
            ({"requireServiceAccount": None}, ".requireServiceAccount", "Required value"),
            ({"requireServiceAccount": "true"}, ".requireServiceAccount", "of type bool"),
            ({"cacheType": None}, ".cacheType", "cacheType is required to be set"),
            ({"cacheType": "token"}, ".cacheType", 'Unsupported value: "token"'),
            (
                {"requireServiceAccount": False, "requiredServiceAccountAnnotationKeys": ["a"]},
                ".requiredServiceAccountAnnotationKeys",
                "requireServiceAccount cannot be false when",
            ),
            (
                {"requiredServiceAccountAnnotationKeys": ["a", "a"]},
                ".requiredServiceAccountAnnotationKeys[1]",
                'Duplicate value: "a"',
            ),
            (
                {
                    "requiredServiceAccountAnnotationKeys": ["a", "b"],
                    "optionalServiceAccountAnnotationKeys": ["b", "c"],
                },
                "",
                'Invalid value: []string{"b"}: annotation keys cannot be both required and',
            ),
        ],
    )
    def test_token_attributes(self, changes: dict[str, Any], field: str, message: str) -> None:
        found = only(validate(json.dumps(token_document(**changes))))
        assert (found.severity, found.path) == ("fatal", f"providers[0].tokenAttributes{field}")
        assert message in found.message

    @pytest.mark.parametrize("version", ["v1alpha1", "v1beta1"])
    def test_token_attributes_need_v1_of_the_request(self, version: str) -> None:
        config = token_document()
        config["providers"][0]["apiVersion"] = f"credentialprovider.kubelet.k8s.io/{version}"
        found = only(validate(json.dumps(config)))
        assert "only supported for credentialprovider.kubelet.k8s.io/v1" in found.message

    @pytest.mark.parametrize(
        "key", ["a", "Example.COM/MyName", "a-b.c/d_e.f", "x" * 63, "x/y", "1", f"{'a' * 253}/b"]
    )
    def test_a_good_annotation_key(self, key: str) -> None:
        config = token_document(optionalServiceAccountAnnotationKeys=[key])
        assert validate(json.dumps(config)) == []

    @pytest.mark.parametrize(
        ("key", "message"),
        [
            ("", "name part must be non-empty"),
            ("a/", "name part must be non-empty"),
            ("/a", "prefix part must be non-empty"),
            ("a/b/c", "a qualified name must consist of"),
            ("cantendwithadash-", "must start and end with an alphanumeric character"),
            ("x" * 64, "no more than 63"),
            ("-a/b", "lowercase RFC 1123 subdomain"),
            ("a_b/c", "lowercase RFC 1123 subdomain"),
            (f"{'a' * 254}/b", "lowercase RFC 1123 subdomain"),
            ("a b", "must start and end with an alphanumeric character"),
        ],
    )
    def test_a_bad_annotation_key(self, key: str, message: str) -> None:
        config = token_document(optionalServiceAccountAnnotationKeys=[key])
        found = only(validate(json.dumps(config)))
        assert found.path.endswith(".optionalServiceAccountAnnotationKeys[0]")
        assert message in found.message

    def test_kubelets_before_1_33_do_not_know_token_attributes(self) -> None:
        found = only(validate(json.dumps(token_document()), kubelet_version="1.32"))
        assert found.message == (
            'strict decoding error: unknown field "providers[0].tokenAttributes"'
        )
        assert found.hint == "known since kubelet 1.33"

    def test_kubelet_1_33_does_not_know_the_cache_type(self) -> None:
        fatal, warning = validate(json.dumps(token_document()), kubelet_version="1.33")
        assert fatal.message.endswith('"providers[0].tokenAttributes.cacheType"')
        assert warning.severity == "warning"

    @pytest.mark.parametrize("version", ["", "latest", "34", "1", "x1.34"])
    def test_a_version_that_cannot_be_read_is_refused(self, version: str) -> None:
        with pytest.raises(ValueError, match="no kubelet version"):
            validate(render(), kubelet_version=version)


class TestDirectory:
    ONE = json.dumps(document(name="one"))
    TWO = json.dumps(document(name="two"))
    EMPTY = json.dumps(document() | {"providers": []})

    def test_files_are_merged_in_the_order_of_their_names(self) -> None:
        files = {"20.yml": self.TWO, "10.json": self.ONE, "README": "x", "30.yaml": self.EMPTY}
        assert [provider.name for provider in merge(files).providers] == ["one", "two"]
        assert validate_directory(files) == []

    def test_a_provider_name_that_stands_twice_is_refused(self) -> None:
        files = {"a.yaml": self.ONE, "b.yaml": self.ONE}
        said = 'duplicate provider name "one" found in configuration file(s)'
        with pytest.raises(ConfigError, match=re.escape(said)):
            merge(files)
        found = only(validate_directory(files))
        assert (found.severity, found.path, found.message) == ("fatal", "b.yaml: providers", said)

    def test_a_name_that_stands_twice_in_one_file_is_told_once(self) -> None:
        config = document()
        config["providers"] *= 2
        assert only(validate_directory({"a.yaml": json.dumps(config)})).severity == "fatal"
        with pytest.raises(ConfigError, match="duplicate provider name"):
            merge({"a.yaml": json.dumps(config)})

    def test_a_finding_names_its_file(self) -> None:
        files = {"a.yaml": self.ONE, "b.yaml": json.dumps(document(extra=1))}
        assert only(validate_directory(files)).path == "b.yaml: providers[0].extra"

    @pytest.mark.parametrize("files", [{}, {"config.txt": "x"}])
    def test_a_directory_without_configs_is_refused(self, files: dict[str, str]) -> None:
        found = only(validate_directory(files))
        assert found.message == "no configuration files found in directory"

    def test_a_directory_without_providers_is_refused(self) -> None:
        assert only(validate_directory({"a.yaml": self.EMPTY})).path == "providers"

    def test_kubelets_before_1_34_take_no_directory(self) -> None:
        found = only(validate_directory({"a.yaml": self.ONE}, kubelet_version="1.33"))
        assert "is a directory" in found.message


class TestMatching:
    @pytest.mark.parametrize(
        ("pattern", "image", "expected"),
        [
            ("*.ocir.io", "fra.ocir.io/ns/repo", True),
            ("*.ocir.io", "fra.ocir.io/ns/repo:1.2@sha256:0", True),
            ("*.ocir.io", "ocir.eu-frankfurt-1.oci.oraclecloud.com/ns/repo", False),
            ("*.ocir.io", "a.b.ocir.io/ns/repo", False),
            ("*.ocir.io", "ocir.io/ns/repo", False),
            ("*.ocir.io", "fra.ocir.io:443/ns/repo", False),
            ("*.ocir.io:443", "fra.ocir.io:443/ns/repo", True),
            ("*.ocir.io:443", "fra.ocir.io/ns/repo", False),
            ("*.ocir.io:", "fra.ocir.io/ns/repo", True),
            ("ocir.*.oci.oraclecloud*.com", "ocir.a.oci.oraclecloud8.com/r", True),
            ("ocir.*.oci.oraclecloud*.com", "ocir.a.oci.oraclecloud.eu/r", False),
            ("a*c.io", "abc.io/r", True),
            ("a*c.io", "ac.io/r", True),
            ("a*c.io", "abcd.io/r", False),
            ("*.OCIR.io", "fra.ocir.io/r", False),
            ("fra.ocir.io/ns", "fra.ocir.io/ns2/repo", True),
            ("fra.ocir.io/ns/", "fra.ocir.io/ns2/repo", False),
            ("fra.ocir.io/*", "fra.ocir.io/ns/repo", False),
            ("fra.ocir.io/ns/repo:1", "fra.ocir.io/ns/repo:1", False),
            ("https://fra.ocir.io", "fra.ocir.io/ns/repo", False),
            ("fra.ocir.io/n%73", "fra.ocir.io/ns/repo", True),
            ("docker.io", "nginx", True),
            ("docker.io/library", "docker.io/nginx:1", True),
            ("docker.io/bitnami", "bitnami/nginx", True),
            ("localhost", "localhost/x", True),
            ("localhost:5000", "localhost:5000/x:1", True),
            ("*", "localhost/x", True),
            ("[::1]:5000", "[::1]:5000/x", True),
            ("[::1]", "[::1]/x", False),
            ("a.io", "%zz/x", False),
        ],
    )
    def test_as_the_kubelet(self, pattern: str, image: str, expected: bool) -> None:
        assert matches(pattern, image) is expected

    _LABEL = st.text("ab-1*", min_size=1, max_size=4)
    _HOST = st.lists(_LABEL, min_size=2, max_size=3).map(".".join)
    _PORT = st.sampled_from(["", ":80", ":5000"])
    _PATH = st.sampled_from(["", "/", "/n", "/ns", "/ns/", "/ns/repo"])

    @given(_HOST, _PORT, _PATH, st.data())
    def test_by_another_way_of_reckoning(
        self, host: str, port: str, path: str, data: st.DataObject
    ) -> None:
        def written_out(label: str) -> str:
            filling = st.text("ab-1", max_size=3)
            return "".join(data.draw(filling) if each == "*" else each for each in label)

        # Now and then a host that the pattern was made for, now and then any.
        made = ".".join(written_out(label) for label in host.split("."))
        other = data.draw(st.lists(st.text("ab-1", min_size=1, max_size=4), min_size=2, max_size=3))
        image_host = data.draw(st.sampled_from([made, ".".join(other)]))
        image_port, image_path = data.draw(self._PORT), data.draw(self._PATH.filter(len))
        image = image_host + image_port + image_path
        expected = (
            port == image_port
            and image_path.startswith(path)
            and host.count(".") == image_host.count(".")
            and all(
                label_matches(ours, theirs)
                for ours, theirs in zip(host.split("."), image_host.split("."), strict=True)
            )
        )
        assert matches(host + port + path, image) is expected

    def test_all_patterns_that_match_are_told(self) -> None:
        config = load(json.dumps(document(matchImages=["*.ocir.io", "a.io", "fra.ocir.io/ns"])))
        assert patterns_that_match(config, "fra.ocir.io/ns/repo") == [
            ("oke-credential-provider", "*.ocir.io"),
            ("oke-credential-provider", "fra.ocir.io/ns"),
        ]

    def test_providers_are_asked_in_the_order_of_the_config_since_1_33(self) -> None:
        config = CredentialProviderConfig(
            tuple(
                CredentialProvider(name, (pattern,), 0.0, "credentialprovider.kubelet.k8s.io/v1")
                for name, pattern in [("z", "*.ocir.io"), ("b", "*.io"), ("a", "fra.ocir.io")]
            )
        )
        image = "fra.ocir.io/ns/repo"
        assert [p.name for p in providers_for(config, image)] == ["z", "a"]
        older = providers_for(config, image, kubelet_version="1.32.1")
        assert [p.name for p in older] == ["a", "z"]

    @pytest.mark.parametrize(
        ("image", "pattern"),
        [
            ("fra.ocir.io/ns/repo:1", "*.ocir.io"),
            ("ocir.us-langley-1.oci.oraclegovcloud.com/a/b", "ocir.*.oci.oraclegovcloud.com"),
            ("ocir.x-1.oci.my.own.cloud/a/b", "ocir.*.oci.my.own.cloud"),
            ("registry.my.cloud:5000/a/b@sha256:0", "registry.my.cloud:5000"),
            ("nginx", "docker.io"),
        ],
    )
    def test_the_suggested_pattern_matches(self, image: str, pattern: str) -> None:
        assert suggest_pattern(image) == pattern
        assert matches(pattern, image)


def label_matches(glob: str, text: str) -> bool:
    """A glob of `*` alone, letter by letter."""
    if not glob:
        return not text
    if glob[0] == "*":
        return any(label_matches(glob[1:], text[cut:]) for cut in range(len(text) + 1))
    return text[:1] == glob[0] and label_matches(glob[1:], text[1:])


class TestGoDuration:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("0", 0),
            ("+0", 0),
            ("-0", 0),
            ("12h", 43200),
            ("1h30m", 5400),
            ("300ms", 0.3),
            ("1.5s", 1.5),
            (".5s", 0.5),
            ("1.s", 1),
            ("-5m", -300),
            ("+5m", 300),
            ("2us3ns", 0.000002003),
            ("1\u00b5s", 0.000001),
            ("1\u03bcs", 0.000001),
            ("1s1s", 2),
            ("0.9999999999s", 0.999999999),
            ("9223372036854775807ns", 9223372036.854775807),
            ("-9223372036854775808ns", -9223372036.854775808),
        ],
    )
    def test_what_go_reads(self, text: str, seconds: float) -> None:
        assert parse_go_duration(text) == seconds

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "invalid duration"),
            ("-", "invalid duration"),
            ("12", "missing unit"),
            ("1h30", "missing unit"),
            ("12 h", "unknown unit"),
            ("1h 30m", "unknown unit"),
            ("1d", "unknown unit"),
            ("1H", "unknown unit"),
            ("s", "invalid duration"),
            (".s", "invalid duration"),
            (" 1s", "invalid duration"),
            ("1s\n", "unknown unit"),
            ("--1s", "invalid duration"),
            ("\u0661s", "invalid duration"),
            ("9223372036854775808ns", "invalid duration"),
            ("2562048h", "invalid duration"),
        ],
    )
    def test_what_go_refuses(self, text: str, said: str) -> None:
        with pytest.raises(ValueError, match=f"^time: {said}"):
            parse_go_duration(text)

    _UNITS = st.sampled_from([("h", 3600), ("m", 60), ("s", 1)])

    @given(st.lists(st.tuples(st.integers(0, 9999), _UNITS), min_size=1, max_size=4))
    def test_terms_add_up(self, terms: list[tuple[int, tuple[str, int]]]) -> None:
        text = "".join(f"{number}{unit}" for number, (unit, _) in terms)
        assert parse_go_duration(text) == sum(number * each for number, (_, each) in terms)

    @given(st.text(string.digits + ".hmsnu+- µ", max_size=8))
    def test_what_is_read_has_the_grammar_of_go(self, text: str) -> None:
        number = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)"
        grammar = rf"[-+]?(0|({number}(ns|us|µs|ms|s|m|h))+)"
        if re.fullmatch(grammar, text):
            parse_go_duration(text)
        else:
            with pytest.raises(ValueError, match=r"^time: "):
                parse_go_duration(text)
