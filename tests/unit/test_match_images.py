"""Matching images as the kubelet does; parsing Go durations."""

import json
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.commands.kubelet_config import (
    CredentialProvider,
    CredentialProviderConfig,
    load,
    matches,
    parse_go_duration,
    patterns_that_match,
    providers_for,
    suggest_pattern,
)
from tests.unit.test_kubelet_config import document


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
    def test_match_like_the_kubelet(self, pattern: str, image: str, expected: bool) -> None:
        assert matches(pattern, image) is expected

    _LABEL = st.text("ab-1*", min_size=1, max_size=4)
    _HOST = st.lists(_LABEL, min_size=2, max_size=3).map(".".join)
    _PORT = st.sampled_from(["", ":80", ":5000"])
    _PATH = st.sampled_from(["", "/", "/n", "/ns", "/ns/", "/ns/repo"])

    @given(_HOST, _PORT, _PATH, st.data())
    def test_match_like_a_second_implementation(
        self, host: str, port: str, path: str, data: st.DataObject
    ) -> None:
        def expand(label: str) -> str:
            filling = st.text("ab-1", max_size=3)
            return "".join(data.draw(filling) if each == "*" else each for each in label)

        # A host that matches the pattern, or a random one.
        made = ".".join(expand(label) for label in host.split("."))
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

    def test_all_matching_patterns_are_returned(self) -> None:
        config = load(json.dumps(document(matchImages=["*.ocir.io", "a.io", "fra.ocir.io/ns"])))
        assert patterns_that_match(config, "fra.ocir.io/ns/repo") == [
            ("oke-credential-provider", "*.ocir.io"),
            ("oke-credential-provider", "fra.ocir.io/ns"),
        ]

    def test_since_1_33_providers_have_the_order_of_the_config(self) -> None:
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
    """Match a glob whose only wildcard is `*`, letter by letter."""
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
    def test_a_valid_duration(self, text: str, seconds: float) -> None:
        assert parse_go_duration(text) == seconds

    @pytest.mark.parametrize(
        "text",
        [
            *(
                "",
                "-",
                "12",
                "1h30",
                "12 h",
                "1h 30m",
                "1d",
                "1H",
                "s",
                ".s",
                " 1s",
                "1s\n",
                "--1s",
            ),
            *("\u0661s", "9223372036854775808ns", "2562048h"),
        ],
    )
    def test_an_invalid_duration(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"is not a duration|is longer than 292 years"):
            parse_go_duration(text)

    _UNITS = st.sampled_from([("h", 3600), ("m", 60), ("s", 1)])

    @given(st.lists(st.tuples(st.integers(0, 9999), _UNITS), min_size=1, max_size=4))
    def test_terms_add_up(self, terms: list[tuple[int, tuple[str, int]]]) -> None:
        text = "".join(f"{number}{unit}" for number, (unit, _) in terms)
        assert parse_go_duration(text) == sum(number * each for number, (_, each) in terms)

    @given(st.text(string.digits + ".hmsnu+- µ", max_size=7))  # 999999h is 114 years
    def test_the_grammar_is_gos(self, text: str) -> None:
        number = r"([0-9]+(\.[0-9]*)?|\.[0-9]+)"
        grammar = rf"[-+]?(0|({number}(ns|us|µs|ms|s|m|h))+)"
        if re.fullmatch(grammar, text):
            parse_go_duration(text)
        else:
            with pytest.raises(ValueError, match="is not a duration"):
                parse_go_duration(text)
