"""Parse Go's duration syntax ("1h30m", "300ms"), which the kubelet uses."""

import re
from typing import Final

_NANOSECONDS: Final = {
    "ns": 1,
    "us": 10**3,
    "\u00b5s": 10**3,  # the micro sign
    "\u03bcs": 10**3,  # the Greek letter mu
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
}
_TERM: Final = rf"(?=\.?[0-9])([0-9]*)(?:\.([0-9]*))?({'|'.join(_NANOSECONDS)})"
_DURATION: Final = re.compile(rf"([-+]?)(0|(?:{_TERM})+)")
_MAX: Final = 2**63  # Go counts nanoseconds in a signed 64-bit integer


def parse_go_duration(text: str) -> float:
    """The duration in seconds, by the grammar of Go's ``time.ParseDuration``. Raises ValueError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f'"{text}" is not a duration')
    # Go drops fractions of a nanosecond, term by term.
    total: int = sum(
        int(whole + fraction) * _NANOSECONDS[unit] // 10 ** len(fraction)
        for whole, fraction, unit in re.findall(_TERM, match[2])
    )
    if total > _MAX - (match[1] != "-"):
        raise ValueError(f'"{text}" is longer than 292 years')
    return (-total if match[1] == "-" else total) / 10**9
