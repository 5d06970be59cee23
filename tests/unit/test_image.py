"""Image references."""

import pytest

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
