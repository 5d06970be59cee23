"""One time limit for a whole call: each connect, read, lock and retry uses what is left of it."""

from __future__ import annotations

import time

from provider.errors import DeadlineExceeded
from provider.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Deadline:
    """A point in time on the monotonic clock, ``seconds`` after its creation.

    The kubelet kills a plugin after 60 s and logs no reason
    (https://github.com/kubernetes/kubernetes/blob/v1.34.0/pkg/credentialprovider/plugin/plugin.go). A call with
    an earlier deadline can still report why it failed.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds

    def left(self, doing: str) -> float:
        """Return the seconds left, more than 0. Raises DeadlineExceeded with ``doing`` in its message."""
        left = self._end - self._clock()
        if left <= 0:
            raise self.exceeded(doing)
        return left

    def exceeded(self, doing: str) -> DeadlineExceeded:
        """Return the error that says that time ran out while ``doing``."""
        return DeadlineExceeded(f"no answer within {self.seconds:.3g} s, while {doing}")

    @property
    def elapsed(self) -> float:
        """Seconds since this deadline was created."""
        return self._clock() - self._end + self.seconds

    @property
    def is_over(self) -> bool:
        """Report whether no time is left."""
        return self._clock() >= self._end

    def within(self, seconds: float, doing: str) -> Deadline:
        """Return a deadline ``seconds`` from now, but not later than this one. Raises DeadlineExceeded."""
        return Deadline(min(seconds, self.left(doing)), self._clock)
