"""`provider.light_typing.NamedTuple` behaves like `typing.NamedTuple`."""

from __future__ import annotations

import copy
import typing
from collections.abc import Callable

import pytest

from provider import light_typing


def _sample(base: typing.Any) -> typing.Any:
    class Sample(base):  # type: ignore[misc] # mypy wants to know the base; it is either NamedTuple
        """With and without a default, and a property."""

        name: str
        size: int = 3
        tags: tuple[str, ...] = ()

        @property
        def label(self) -> str:
            return f"{self.name}-{self.size}"

    return Sample


_USES: dict[str, Callable[[typing.Any], object]] = {
    "defaults": lambda kind: tuple(kind("a")),
    "positions": lambda kind: tuple(kind("a", 1, ("x",))),
    "names": lambda kind: tuple(kind(size=1, name="a")),
    "both": lambda kind: tuple(kind("a", tags=("x",))),
    "fields": lambda kind: (kind("a").name, kind("a").size, kind("a", 1, ("x",)).size),
    "property": lambda kind: kind("a").label,
    "equality": lambda kind: (kind("a") == kind("a", 3), kind("a") == kind("b")),
    "hash": lambda kind: len({kind("a"), kind("a", 3), kind("b")}),
    "unpacking": lambda kind: [*kind("a")],
    "replace": lambda kind: tuple(kind("a")._replace(size=9)),
    "copy": lambda kind: tuple(copy.copy(kind("a", 1))),
    "match": lambda kind: _matched(kind, kind("a", 1)),
    "asdict": lambda kind: kind("a")._asdict(),
    "names of the fields": lambda kind: kind._fields,
    "repr": lambda kind: repr(kind("a", tags=("x",))),
    "a value is missing": lambda kind: kind(size=1),
    "too many values": lambda kind: kind("a", 1, (), 4),
    "an unknown name": lambda kind: kind("a", colour=1),
    "a value twice": lambda kind: kind("a", name="b"),
    "replace an unknown name": lambda kind: kind("a")._replace(colour=1),
    "assignment": lambda kind: setattr(kind("a"), "name", "b"),
    "a new attribute": lambda kind: setattr(kind("a"), "other", "b"),
    "deletion": lambda kind: delattr(kind("a"), "name"),
}


def _matched(kind: typing.Any, value: object) -> object:
    match value:
        case kind(name, 1):
            return name
    return None


def _result(use: Callable[[typing.Any], object], kind: type) -> object:
    try:
        return use(kind)
    except (TypeError, ValueError, AttributeError) as error:
        # typing's _replace raises ValueError before Python 3.13, later TypeError.
        return "refused" if isinstance(error, TypeError | ValueError) else AttributeError


@pytest.mark.parametrize("use", _USES)
def test_it_behaves_like_the_standard_one(use: str) -> None:
    standard, light = _sample(typing.NamedTuple), _sample(light_typing.NamedTuple)
    assert _result(_USES[use], light) == _result(_USES[use], standard)
