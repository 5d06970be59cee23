"""The values that every step of one call needs."""

from __future__ import annotations

from provider.light_typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Protocol

    from provider.log import Log
    from provider.net.deadline import Deadline
    from provider.settings import Settings

    class Subject(Protocol):
        """What proves an identity other than the node's, read once."""

        @property
        def identity(self) -> str:
            """The cache key of its tokens. It covers everything that proves the identity."""


class Invocation(NamedTuple):
    """One call. ``environ`` is the process environment; ``subject`` None means the node's own identity."""

    settings: Settings
    environ: Mapping[str, str]
    deadline: Deadline
    log: Log
    subject: Subject | None = None
