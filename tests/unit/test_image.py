"""Image references."""

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.errors import BadRequest
from provider.image import Image, parse_image

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fra.ocir.io/ns/repo", Image("fra.ocir.io", "ns/repo")),
        ("fra.ocir.io:443/ns/repo", Image("fra.ocir.io:443", "ns/repo")),
        ("fra.ocir.io/ns/repo:v1", Image("fra.ocir.io", "ns/repo", "v1")),
        (f"fra.ocir.io/ns/repo@{DIGEST}", Image("fra.ocir.io", "ns/repo", None, DIGEST)),
        (f"h.io:1/a/b/c:t@{DIGEST}", Image("h.io:1", "a/b/c", "t", DIGEST)),
        ("localhost/a", Image("localhost", "a")),
        ("busybox:1", Image("docker.io", "busybox", "1")),
        ("library/busybox", Image("docker.io", "library/busybox")),
        ("h.io/a__b/c--d.e_f", Image("h.io", "a__b/c--d.e_f")),
    ],
)
def test_image_references(text: str, expected: Image) -> None:
    assert parse_image(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "/", "h.io/", "h.io/A", "h.io/a:", "h.io/a@", "h.io/a@sha256:1", "h.io//a", "h.io/a b",
     "u@h.io/a", "h.io/a?x", "h.io/../a", "h.io/a/", "h.io/a\n", "h.io:x/a", "a" * 1100],
)  # fmt: skip
def test_invalid_image_references(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_image(text)


def test_the_manifest_reference_is_the_digest_the_tag_or_latest() -> None:
    assert parse_image(f"h.io/a:t@{DIGEST}").reference == DIGEST
    assert parse_image("h.io/a:t").reference == "t"
    assert parse_image("h.io/a").reference == "latest"


# https://github.com/distribution/reference/blob/main/regexp.go
_HOST = r"([A-Za-z0-9][A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"
_COMPONENT = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z0-9.+_-]+:[0-9A-Fa-f]{32,}"
_REFERENCE = re.compile(
    rf"(?P<host>{_HOST})/(?P<repository>{_COMPONENT}(/{_COMPONENT})*)"
    rf"(:(?P<tag>{_TAG}))?(@(?P<digest>{_DIGEST}))?"
)
_LIKE_A_HOST = re.compile(r"[^/]*[.:A-Z][^/]*/.*|localhost/.*", re.S)


_TAGS = ("", ":", ":v1", ":-", ":" + "t" * 128, ":" + "t" * 129, ":\u0661")
_DIGESTS = (
    "",
    "@",
    f"@{DIGEST}",
    f"@{DIGEST[:39]}",
    f"@{DIGEST[:38]}",
    f"@:{'0' * 32}",
    "@a b:" + "0" * 32,
)
_HOSTS = (
    "h.io",
    "H",
    "-h.io",
    "h.io:",
    "h:12345",
    "h:123456",
    "h:x",
    "[::1]",
    "[::1]:5",
    "[::1]5",
    "[::1]x5",
    "[g]",
    "x::1]",
)
_REPOSITORIES = (
    "a",
    "a/b",
    "a//b",
    "a.b",
    "a..b",
    "a_b",
    "a__b",
    "a___b",
    "a---b",
    "a-.b",
    "-a",
    "a-",
    "a b",
    "A",
)


@pytest.mark.parametrize("host", _HOSTS)
def test_the_grammar_in_combinations(host: str) -> None:
    for parts in product(_REPOSITORIES, _TAGS, _DIGESTS):
        _check_grammar(f"{host}/{''.join(parts)}")


@given(st.text("aZ09._-/:@[]fF \n\u0661\u212a", min_size=1, max_size=24))
def test_the_grammar(text: str) -> None:
    _check_grammar(text)


def _check_grammar(text: str) -> None:
    # A reference without a host is one of docker.io.
    match = _REFERENCE.fullmatch(text if _LIKE_A_HOST.fullmatch(text) else f"docker.io/{text}")
    if match and len(text) <= 1024:
        names = match["host"], match["repository"], match["tag"], match["digest"]
        assert parse_image(text) == Image(*names)
    else:
        with pytest.raises(BadRequest):
            parse_image(text)
