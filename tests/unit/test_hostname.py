"""Host names, compared with patterns of their grammars."""

import re
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider.net.hostname import is_domain_name, parse_host, split_host

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"({_LABEL}\.)+(?![0-9]+$){_LABEL}", re.A)
_ADDRESS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9a-f]*:[0-9a-f:]+", re.A)
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.A)
# Near misses: KELVIN SIGN (lower case: k), ARABIC-INDIC DIGIT ONE, a line feed.
_TEXT = st.text("az019-.:KA\u212a\u0661\n_ ", max_size=20) | st.from_regex(_NAME)


def _host(text: str) -> str | None:
    host = text.lower()
    return host if _NAME.fullmatch(host) or _ADDRESS.fullmatch(host) else None


@given(_TEXT)
def test_a_domain_name(text: str) -> None:
    assert is_domain_name(text) == bool(_NAME.fullmatch(text))


def test_combinations_of_labels() -> None:
    labels = ("a", "a-b", "-a", "a-", "-", "", "1", "a" * 63, "a" * 64, "\u0661", "a_b", "A", "a\n")
    for parts in product(labels, repeat=3):
        text = ".".join(parts)
        assert is_domain_name(text) == bool(_NAME.fullmatch(text)), text


def test_the_longest_domain_name() -> None:
    name = ".".join(["a" * 49] * 5)
    assert is_domain_name(f"{name}.ioi") and len(f"{name}.ioi") == 253
    assert not is_domain_name(f"{name}.ioio")


@pytest.mark.parametrize(
    "text",
    [
        "1.2.3.4",
        "1234.1.1.1",
        "1.2.3",
        "1.2.3.4.5",
        "1.2.3.a",
        "::1",
        "::",
        ":",
        "1:",
        ":1",
        "g::1",
        "[::1]",
        "FE80::1",
        "::1%1",
    ],
)
def test_an_address(text: str) -> None:
    assert parse_host(text) == _host(text)


@given(_TEXT | st.from_regex(_ADDRESS))
def test_a_host(text: str) -> None:
    assert parse_host(text) == _host(text)


@pytest.mark.parametrize("name", ["a.io", "A.io", "localhost", "x"])
@pytest.mark.parametrize(
    "port", ["443", "1", "65535", "65536", "0", "01", "123456", "", "\u0661", " 1", "1:1", "+1"]
)
def test_a_port(name: str, port: str) -> None:
    well_formed = _PORT.fullmatch(port) and int(port) <= 65535 and name != "x"
    expected = (name.lower(), int(port)) if well_formed else None
    assert split_host(f"{name}:{port}") == expected
