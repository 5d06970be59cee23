"""The values that every step of one call needs."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from provider.log import Log
from provider.net.deadline import Deadline
from provider.settings import Settings


class Subject(Protocol):
    """The source of an identity other than the node's: what proves it, read once."""

    @property
    def identity(self) -> str:
        """The cache key of its tokens: a digest of everything that proves the identity."""


class Invocation(NamedTuple):
    """One call. ``environ`` is for proxy and CA bundle; ``subject`` None means the node's own identity."""

    settings: Settings
    environ: Mapping[str, str]
    deadline: Deadline
    log: Log
    subject: Subject | None = None
