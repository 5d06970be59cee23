"""Work in a background thread."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from provider.light_typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from provider.net.deadline import Deadline

T = TypeVar("T")


class Background(Generic[T]):
    """Runs ``work`` in a new thread at once.

    The thread is a daemon thread: work that hangs, such as a DNS lookup without a time limit, does not keep
    the process alive.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: T
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error

    def result(self, deadline: Deadline, doing: str) -> T:
        """Wait for ``work`` and return its result. Raises what it raised, and DeadlineExceeded."""
        self._thread.join(deadline.left(doing))
        if self._thread.is_alive():
            raise deadline.exceeded(doing)
        if self._error is not None:
            raise self._error
        return self._result
