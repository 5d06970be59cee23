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
    """Parse JSON in UTF-8, UTF-16 or UTF-32. Raises ValueError, RecursionError."""
    try:
        text = data.decode().strip(_SPACE)
        value, end = make_scanner(_Options)(text, 0)  # type: ignore[arg-type] # any object with these attributes
        if end == len(text):
            return value
    # SystemError: the scanner finds its own errors only in the module json. Not every Exception: one of them is
    # Terminated, which a signal raises at any time.
    except (StopIteration, SystemError, ValueError, RecursionError):
        pass
    import json

    return json.loads(data)  # raises the error, or reads another encoding


def dumps(value: object) -> str:
    """Return JSON in ASCII, on one line. Raises TypeError."""
    # The arguments that json.JSONEncoder passes by default, without the check for cycles.
    encode = make_encoder(
        None, _refuse, encode_basestring_ascii, None, ": ", ", ", False, False, True
    )
    return "".join(encode(value, 0))


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"JSON has no {type(value).__name__}")
