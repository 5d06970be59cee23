"""One time limit that every connect, read, lock and retry of a call draws from."""

import time
from collections.abc import Callable

from provider.errors import DeadlineExceeded


class Deadline:
    """A point on the monotonic clock.

    The kubelet kills a plugin 60 s after its start (pkg/credentialprovider/plugin, a constant
    there), so a call that plans for less can still say why it failed.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds

    def left(self, doing: str) -> float:
        """Seconds left, more than 0. Raises DeadlineExceeded, naming what was being done."""
        left = self._end - self._clock()
        if left <= 0:
            raise DeadlineExceeded(f"no answer within {self.seconds:.3g} s, while {doing}")
        return left

    @property
    def is_over(self) -> bool:
        """True when no time is left."""
        return self._clock() >= self._end

    def within(self, seconds: float, doing: str) -> "Deadline":
        """A deadline at most ``seconds`` away and never later than this one."""
        return Deadline(min(seconds, self.left(doing)), self._clock)
