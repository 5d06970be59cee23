"""One step of a check: its status, cause, texts and duration."""

import dataclasses
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, Generic, Literal, NamedTuple, TypeVar

from provider.errors import ProviderError

Status = Literal["ok", "warning", "failed", "skipped", "not visible"]

FAILED: Final = 1
NOT_VISIBLE: Final = 3
AS_ROOT: Final = "Run the check as root."

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """What a step did (``action``) and found (``result``). No text contains a secret.

    ``warning``: pulls work nevertheless. ``skipped``: the step does not apply, or an earlier step
    failed. ``not visible``: this user has no permission to look. ``cause`` is stable, for scripts:
    "ok", "dns", "image-not-matched", or the code of a ProviderError. ``advice`` has one line per
    item; a line that begins with a space is a command or text to paste.
    """

    name: str
    status: Status
    cause: str
    action: str
    result: str
    advice: tuple[str, ...] = ()
    milliseconds: float = 0.0

    def to_json(self) -> dict[str, object]:
        """The step under the stable field names of ``check --output json``."""
        names = {"action": "tried", "result": "came"}
        return {names.get(name, name): value for name, value in dataclasses.asdict(self).items()}


def ok(name: str, action: str, result: str, *notes: str) -> Step:
    """A step that found no problem."""
    return Step(name, "ok", "ok", action, result, notes)


def failed(name: str, cause: str, action: str, result: str, *advice: str) -> Step:
    """A step that found why pulls fail."""
    return Step(name, "failed", cause, action, result, advice)


def warning(name: str, cause: str, action: str, result: str, *advice: str) -> Step:
    """A step that found a problem although pulls work."""
    return Step(name, "warning", cause, action, result, advice)


def skipped(name: str, cause: str, result: str) -> Step:
    """A step that did not run."""
    return Step(name, "skipped", cause, "", result)


def blocked(name: str, earlier: str) -> Step:
    """A step that did not run because an earlier step failed."""
    return skipped(name, "needs-earlier-step", f"needs the step {earlier!r}")


def not_visible(name: str, action: str, result: str, *advice: str) -> Step:
    """A step for which this user has no permission. By default it advises to use root."""
    return Step(name, "not visible", "not-visible", action, result, advice or (AS_ROOT,))


def from_error(name: str, action: str, error: ProviderError, *advice: str) -> Step:
    """A step that ended with a ProviderError; ``advice`` replaces the error's hint."""
    return failed(name, error.code, action, error.message, *(advice or (error.hint,)))


class Outcome(NamedTuple, Generic[T]):
    """A step, and the value that it produced if it succeeded."""

    step: Step
    value: T | None = None


def timed(run: Callable[[], Step]) -> Step:
    """Run a step and add its duration."""
    return timed_outcome(lambda: Outcome(run())).step


def timed_outcome(run: Callable[[], Outcome[T]]) -> Outcome[T]:
    """Run a step that produces a value and add its duration."""
    started = time.monotonic()
    outcome = run()
    milliseconds = round((time.monotonic() - started) * 1000, 1)
    return Outcome(replace(outcome.step, milliseconds=milliseconds), outcome.value)


def exit_code(steps: Iterable[Step]) -> int:
    """The command's exit code.

    1 if a step failed, 3 if no step failed but one was not visible, otherwise 0.
    """
    statuses = {step.status for step in steps}
    return FAILED if "failed" in statuses else NOT_VISIBLE if "not visible" in statuses else 0
