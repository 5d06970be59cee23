"""Sets of ASCII characters, to check text without ``re``: importing that and compiling patterns takes 6 ms of
each kubelet call.
"""

from __future__ import annotations

from provider.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set

DIGITS = frozenset("0123456789")
LOWER_ALNUM = DIGITS | frozenset("abcdefghijklmnopqrstuvwxyz")
ALNUM = LOWER_ALNUM | frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
HEX = DIGITS | frozenset("abcdefABCDEF")
# Printable, without the space
GRAPHIC = frozenset(map(chr, range(0x21, 0x7F)))


def consists_of(text: str, characters: Set[str], longest: int | None = None) -> bool:
    """Report whether ``text`` has only these characters, at least one and at most ``longest``."""
    return 0 < len(text) <= (longest or len(text)) and characters >= set(text)
