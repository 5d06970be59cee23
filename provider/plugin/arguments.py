"""Detects kubelet calls by the command line."""

from __future__ import annotations

from provider.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class KubeletCall(NamedTuple):
    """The options of a kubelet call."""

    settings_file: str | None
    verbose: bool


def kubelet_call(argv: Sequence[str]) -> KubeletCall | None:
    """Return the options of a kubelet call; None for a command. ``-config`` is how the Go provider spells it."""
    settings_file, verbose = None, False
    words = iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if name in ("-config", "--config"):
            settings_file = value if equals else next(words, None)
            if not settings_file:
                return None
        elif word == "--verbose":
            verbose = True
        else:
            return None
    return KubeletCall(settings_file, verbose)
