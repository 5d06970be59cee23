"""``loads`` and ``dumps`` of the module ``json``, for the modules that every kubelet call imports.

These use the C functions that ``json`` uses. Importing ``json`` takes 5 ms, most of it for ``re``.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner

from provider.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, NoReturn

_SPACE = " \t\n\r"


class _Options:
    """What the scanner reads from a ``json.JSONDecoder``."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float = parse_constant = float
    parse_int = int


def loads(data: bytes) -> Any:
    """Parse JSON in UTF-8. Raises ValueError, RecursionError."""
    text = data.decode().strip(_SPACE)
    try:
        value, end = make_scanner(_Options)(text, 0)  # type: ignore[arg-type] # any object with these attributes
    except Exception:
        end = -1  # the scanner can raise its own errors only if json was imported
    if end != len(text):
        import json

        return json.loads(text)  # raises the error
    return value


def dumps(value: object) -> str:
    """Return JSON in ASCII, on one line. Raises TypeError."""
    # The arguments that json.JSONEncoder passes by default, without the check for cycles.
    encode = make_encoder(
        None, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, True
    )
    return "".join(encode(value, 0))


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"JSON has no {type(value).__name__}")
