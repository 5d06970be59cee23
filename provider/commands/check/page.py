"""A check for people: a line for each step, and more where something is to be done."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import click

from provider.commands.check.step import Status, Step

_COLOURS: Final[dict[Status, str]] = {
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
    """One step; its details where it does not hold, and all of them when ``verbose``."""
    step = _printable(step)
    status = click.style(step.status.ljust(_STATUS_WIDTH), fg=_COLOURS[step.status])
    name = click.style(step.name.ljust(_NAME_WIDTH), bold=True)
    took = f"{step.milliseconds:.0f} ms" if step.milliseconds >= 1 else ""
    first, *rest = _wrapped(f"{step.came} {took}".strip(), width - len(_INDENT) - _NAME_WIDTH)
    if took and (rest or [first])[-1].endswith(took):
        last = (rest or [first])[-1].removesuffix(took) + click.style(took, dim=True)
        first, rest = (first, [*rest[:-1], last]) if rest else (last, rest)
    yield f"  {status}{name}{first}"
    yield from (" " * (len(_INDENT) + _NAME_WIDTH) + line for line in rest)
    calm = step.status in ("ok", "skipped")
    if verbose and step.tried:
        yield from _prose(f"tried: {step.tried}", width)
    if not calm or verbose:
        for text in step.advice:
            if text.startswith(" "):
                yield _INDENT + click.style(f"  {text.strip()}", fg="cyan")
            else:
                yield from _prose(text, width)
        if step.advice:
            yield ""


def _printable(step: Step) -> Step:
    """The step without control characters: a server or a file of another user chose some texts."""

    def clean(text: str) -> str:
        return "".join(c if c.isprintable() else "?" for c in text)

    advice = tuple(map(clean, step.advice))
    return replace(step, tried=clean(step.tried), came=clean(step.came), advice=advice)


def summary(steps: Sequence[Step]) -> str:
    """The last line: does all hold?"""
    for status, told in (
        ("failed", "Does not hold"),
        ("not visible", "Nothing failed, but this user could not see"),
        ("warning", "Nothing failed, with warnings"),
    ):
        names = ", ".join(dict.fromkeys(step.name for step in steps if step.status == status))
        if names:
            return f"{told}: {names}."
    return "All holds."


def _prose(text: str, width: int) -> list[str]:
    return [_INDENT + line for line in _wrapped(text, width - len(_INDENT))]


def _wrapped(text: str, width: int) -> list[str]:
    # Names, addresses and paths stay whole, so that they can be copied.
    return textwrap.wrap(text, max(30, width), break_long_words=False, break_on_hyphens=False) or [
        ""
    ]
