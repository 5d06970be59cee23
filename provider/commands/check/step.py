"""One step of a check, and what the steps together mean."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Generic, Literal, NamedTuple, TypeVar

from provider.errors import ProviderError

Status = Literal["ok", "warning", "failed", "skipped", "not visible"]

FAILED: Final = 1
NOT_VISIBLE: Final = 3

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """What was tried and what came of it; no secret stands in any of its texts.

    ``warning``: pulls work all the same. ``skipped``: it does not apply, or an earlier step failed.
    ``not visible``: this user may not see it. ``cause`` is stable, for machines: "ok", "dns",
    "image-not-matched"; an error's code where an error of the provider's is the cause. ``advice`` is
    what to do, line by line; a line that begins with a space is to be pasted.
    """

    name: str
    status: Status
    cause: str
    tried: str
    came: str
    advice: tuple[str, ...] = ()
    milliseconds: float = 0.0


def ok(name: str, tried: str, came: str, *notes: str) -> Step:
    """A step that holds."""
    return Step(name, "ok", "ok", tried, came, notes)


def failed(name: str, cause: str, tried: str, came: str, *advice: str) -> Step:
    """A step that keeps pulls from working."""
    return Step(name, "failed", cause, tried, came, advice)


def warning(name: str, cause: str, tried: str, came: str, *advice: str) -> Step:
    """A step that does not hold, although pulls work."""
    return Step(name, "warning", cause, tried, came, advice)


def skipped(name: str, cause: str, came: str) -> Step:
    """A step that was not taken."""
    return Step(name, "skipped", cause, "", came)


def needs(name: str, earlier: str) -> Step:
    """A step that an earlier one's failure left out."""
    return skipped(name, "needs-earlier-step", f"needs the step {earlier!r}")


def not_visible(name: str, tried: str, came: str, *advice: str) -> Step:
    """A step that this user may not take."""
    return Step(name, "not visible", "not-visible", tried, came, advice)


def broken(name: str, tried: str, error: ProviderError, *advice: str) -> Step:
    """A step in which the program's own code gave up."""
    return failed(name, error.code, tried, error.message, *(advice or (error.hint,)))


def timed(take: Callable[[], Step]) -> Step:
    """Take a step, and note how long it took."""
    began = time.monotonic()
    step = take()
    return replace(step, milliseconds=round((time.monotonic() - began) * 1000, 1))


class Taken(NamedTuple, Generic[T]):
    """A step, and what it yielded if it went well."""

    step: Step
    value: T | None = None


def timed_taken(take: Callable[[], Taken[T]]) -> Taken[T]:
    """Take a step that yields something, and note how long it took."""
    values: list[T | None] = []

    def noted() -> Step:
        taken = take()
        values.append(taken.value)
        return taken.step

    return Taken(timed(noted), values[0])


def exit_code(steps: Iterable[Step]) -> int:
    """0 when all holds (warnings are allowed), 1 when a step failed, 3 when nothing failed but
    something could not be seen.
    """
    states = {step.status for step in steps}
    return FAILED if "failed" in states else NOT_VISIBLE if "not visible" in states else 0
