"""Go's duration syntax ("1h30m", "300ms"), in which the kubelet reads and writes times."""

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
_TERM: Final = re.compile(r"([0-9]*)(?:\.([0-9]*))?([^0-9.]*)")
_LONGEST: Final = 2**63  # Go counts nanoseconds in a signed 64-bit integer


def parse_go_duration(text: str) -> float:
    """The seconds that ``text`` stands for, by the grammar of Go's ``time.ParseDuration``.

    A duration is an optional sign and one or more decimal numbers, each with a unit of
    ns, us, ms, s, m or h, and nothing between them; only a bare "0" needs no unit.

    Raises ValueError with Go's own message.
    """
    unsigned = text[1:] if text[:1] in {"-", "+"} else text
    if unsigned == "0":
        return 0.0
    if not unsigned:
        raise ValueError(f'time: invalid duration "{text}"')
    total = 0
    position = 0
    while position < len(unsigned):
        term = _TERM.match(unsigned, position)
        if term is None or not (term[1] or term[2]):
            raise ValueError(f'time: invalid duration "{text}"')
        whole, fraction, unit = term[1], term[2] or "", term[3]
        if not unit:
            raise ValueError(f'time: missing unit in duration "{text}"')
        if unit not in _NANOSECONDS:
            raise ValueError(f'time: unknown unit "{unit}" in duration "{text}"')
        # Go drops what is smaller than a nanosecond, number by number.
        digits = int(whole + fraction)
        total += digits * _NANOSECONDS[unit] // 10 ** len(fraction)
        position = term.end()
    if total > _LONGEST - (not text.startswith("-")):
        raise ValueError(f'time: invalid duration "{text}"')
    return (-total if text.startswith("-") else total) / 10**9
