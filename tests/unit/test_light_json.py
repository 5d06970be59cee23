"""`provider.light_json` gives the results of `json`."""

import json
import signal
import subprocess
import sys
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provider import light_json
from provider.errors import Terminated
from tests.support.built import ROOT

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
)


def _error(function: Any, argument: object) -> object:
    try:
        return function(argument)
    except RecursionError:
        return RecursionError
    except (TypeError, ValueError) as error:
        return type(error) if isinstance(error, TypeError) else ValueError


@given(_VALUES)
def test_dumps(value: object) -> None:
    assert light_json.dumps(value) == json.dumps(value)


@given(
    _VALUES,
    st.sampled_from(["", " ", "\r\n\t "]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be"]),
)
def test_loads(value: object, space: str, encoding: str) -> None:
    text = space + json.dumps(value, ensure_ascii=False) + space
    data = text.encode(encoding, errors="replace")
    assert repr(light_json.loads(data)) == repr(json.loads(data))  # NaN differs from itself


@given(st.text('{}[]",:0123456789.eE+-truefalsn\\u \u00a0\n\x00', max_size=12))
def test_loads_refuses_what_json_refuses(text: str) -> None:
    data = text.encode()
    assert repr(_error(light_json.loads, data)) == repr(_error(json.loads, data))


@pytest.mark.parametrize(
    "data", [b"", b"[" * 200_000, b'"\xff"', b'"\n"', b'{"a": 1} x', b'{"a": 1', b"\x00"]
)
def test_loads_refuses(data: bytes) -> None:
    assert _error(light_json.loads, data) is _error(json.loads, data)


@pytest.mark.parametrize("value", [object(), b"x", {b"x": 1}, {1, 2}])
def test_dumps_refuses(value: object) -> None:
    assert _error(light_json.dumps, value) is _error(json.dumps, value) is TypeError


@pytest.mark.parametrize("data", ["{", "", "[1,]", '{"a" 1}', "nul"])
def test_errors_do_not_depend_on_what_was_imported(data: str) -> None:
    script = f"""
import sys
from provider.light_json import loads
assert "json" not in sys.modules
try:
    loads({data.encode()!r})
except ValueError:
    sys.exit(3)
"""
    command = [sys.executable, "-S", "-c", script]
    assert subprocess.run(command, check=False, cwd=ROOT).returncode == 3


def test_a_signal_ends_the_scanner(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(_: int, __: object) -> NoReturn:
        raise Terminated("ended by SIGTERM")

    def parse_int(text: str) -> int:
        signal.raise_signal(signal.SIGTERM)
        return int(text)

    monkeypatch.setattr(light_json._Options, "parse_int", parse_int)
    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(Terminated):
            light_json.loads(b"[1]")
    finally:
        signal.signal(signal.SIGTERM, before)
