"""Work that goes on while the main thread does something else."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from provider.errors import DeadlineExceeded
from provider.net.deadline import Deadline

T = TypeVar("T")


class Background(Generic[T]):
    """Runs ``work`` in a thread of its own, at once.

    The thread is a daemon: what hangs in it (a DNS look-up has no time limit) never holds up the
    end of the program.
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
        """What ``work`` returned; raises what it raised, or DeadlineExceeded when it is not done."""
        self._thread.join(deadline.left(doing))
        if self._thread.is_alive():
            raise DeadlineExceeded(f"no answer within {deadline.seconds:.3g} s, while {doing}")
        if self._error is not None:
            raise self._error
        return self._result
