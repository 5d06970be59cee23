"""The values that every step of one call needs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from provider.log import Log
from provider.net.deadline import Deadline
from provider.settings import Settings

if TYPE_CHECKING:
    from typing import Protocol

    class Subject(Protocol):
        """What proves an identity other than the node's, read once."""

        @property
        def identity(self) -> str:
            """The cache key of its tokens. It covers everything that proves the identity."""
else:
    # A Protocol, or its name as a string in a NamedTuple, takes up to 1 ms of each call.
    Subject = object


class Invocation(NamedTuple):
    """One call. ``environ`` is the process environment; ``subject`` None means the node's own identity."""

    settings: Settings
    environ: Mapping[str, str]
    deadline: Deadline
    log: Log
    subject: Subject | None = None
