"""Registry tokens."""

import pytest

from provider.ocir.token import is_token


@pytest.mark.parametrize("text", ["!", "~", "a" * 65536])
def test_a_token(text: str) -> None:
    assert is_token(text)


@pytest.mark.parametrize(
    "text", [None, 1, b"a", "", " ", "a b", "a\n", "\x7f", "\u0661", "\ud800", "a" * 65537]
)
def test_what_is_no_token(text: object) -> None:
    assert not is_token(text)
