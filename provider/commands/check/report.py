"""The text output of a check: one line per step, and advice where something is wrong."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import click

from provider.commands.check.step import Status, Step

_COLORS: Final[dict[Status, str]] = {
    "ok": "green",
    "warning": "yellow",
    "failed": "red",
    "skipped": "bright_black",
    "not visible": "magenta",
}
_STATUS_WIDTH: Final = 13
_NAME_WIDTH: Final = 18
_INDENT: Final = " " * (2 + _STATUS_WIDTH)


def lines(step: Step, width: int, verbose: bool) -> Iterator[str]:
    """One step. Its advice follows if it found a problem; ``verbose`` prints everything."""
    step = _printable(step)
    status = click.style(step.status.ljust(_STATUS_WIDTH), fg=_COLORS[step.status])
    name = click.style(step.name.ljust(_NAME_WIDTH), bold=True)
    duration = f"{step.milliseconds:.0f} ms" if step.milliseconds >= 1 else ""
    text = f"{step.result} {duration}".strip()
    *wrapped, last = _wrapped(text, width - len(_INDENT) - _NAME_WIDTH)
    if duration and last.endswith(duration):
        last = last.removesuffix(duration) + click.style(duration, dim=True)
    first, *rest = [*wrapped, last]
    yield f"  {status}{name}{first}"
    yield from (" " * (len(_INDENT) + _NAME_WIDTH) + line for line in rest)
    if verbose and step.action:
        yield from _prose(f"tried: {step.action}", width)
    if verbose or step.status not in ("ok", "skipped"):
        for text in step.advice:
            if text.startswith(" "):
                yield _INDENT + click.style(f"  {text.strip()}", fg="cyan")
            else:
                yield from _prose(text, width)
        if step.advice:
            yield ""


def _printable(step: Step) -> Step:
    """Replace control characters: some texts come from servers or from other users' files."""

    def clean(text: str) -> str:
        return "".join(c if c.isprintable() else "?" for c in text)

    advice = tuple(map(clean, step.advice))
    return replace(step, action=clean(step.action), result=clean(step.result), advice=advice)


def summary(steps: Sequence[Step]) -> str:
    """The last line: the steps that found a problem."""
    for status, text in (
        ("failed", "Failed"),
        ("not visible", "Nothing failed, but this user cannot see"),
        ("warning", "Nothing failed, with warnings"),
    ):
        names = ", ".join(dict.fromkeys(step.name for step in steps if step.status == status))
        if names:
            return f"{text}: {names}."
    return "Everything is OK."


def _prose(text: str, width: int) -> list[str]:
    return [_INDENT + line for line in _wrapped(text, width - len(_INDENT))]


def _wrapped(text: str, width: int) -> list[str]:
    # Do not break names, addresses and paths, so that users can copy them.
    wrapped = textwrap.wrap(text, max(30, width), break_long_words=False, break_on_hyphens=False)
    return wrapped or [""]
