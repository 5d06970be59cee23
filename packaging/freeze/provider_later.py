"""What the frozen program loads on its first use. ``bundle.loaded_later`` puts these in place."""

import re as _re
from collections.abc import Callable
from typing import Any


class _Pattern:
    """A regular expression that is compiled on its first use."""

    def __init__(self, *arguments: Any) -> None:
        self._arguments = arguments

    def __getattr__(self, name: str) -> Any:
        return getattr(_re.compile(*self._arguments), name)


class _Re:
    """The module re, which compiles later."""

    compile = _Pattern

    def __getattr__(self, name: str) -> Any:
        return getattr(_re, name)


re = _Re()


def ssh_function(name: str) -> Callable[..., Any]:
    """Return a function of cryptography's SSH module, which is imported when it is called."""
    if name.startswith("__"):
        raise AttributeError(name)

    def call(*arguments: Any, **options: Any) -> Any:
        from cryptography.hazmat.primitives.serialization import (  # type: ignore[attr-defined] # exists in the frozen program
            ssh_keys,
        )

        return getattr(ssh_keys, name)(*arguments, **options)

    return call
