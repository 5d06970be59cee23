"""A chart: time to the last response and number of exchanges, by number of parallel pulls."""

from collections.abc import Callable, Mapping
from html import escape
from math import log10

from tests.campaigns.bench.measure import STORMS, Figures, Storm

_WIDTH, _HEIGHT = 720, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 110, 40, 45
# Colors that color-blind people can distinguish (Okabe and Ito).
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")

# One line: a value for each storm, by number of parallel calls.
Line = Mapping[int, float]


def svg(figures: Figures) -> str:
    """Draw both panels, one below the other, with logarithmic axes."""
    panels: tuple[tuple[str, Callable[[Storm], float]], ...] = (
        ("seconds to the last answer", lambda storm: storm.seconds),
        ("exchanges with OCI", lambda storm: storm.asked.tokens),
    )
    drawn = []
    for number, (title, figure) in enumerate(panels):
        lines = {
            form: {n: figure(figures.storms[form, n]) for n in STORMS} for form in figures.forms
        }
        drawn.append(f'<g transform="translate(0 {number * _HEIGHT})">{_panel(title, lines)}</g>')
    height = _HEIGHT * len(panels)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}"'
        ' font-family="sans-serif" font-size="13">\n'
        f'<rect width="{_WIDTH}" height="{height}" fill="white"/>\n'
        + "\n".join(drawn)
        + "\n</svg>\n"
    )


def _panel(title: str, lines: Mapping[str, Line]) -> str:
    values = [value for line in lines.values() for value in line.values()]
    decades = range(_floor(min(values)), -_floor(1 / max(values)) + 1)
    low, high = decades[0], max(decades[-1], decades[0] + 1)

    def x(calls: int) -> float:
        share = log10(calls / STORMS[0]) / log10(STORMS[-1] / STORMS[0])
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        share = (log10(value) - low) / (high - low)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [_text(_LEFT, 22, title, bold=True)]
    for power in range(low, high + 1):
        at = y(10.0**power)
        parts.append(f'<path d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(_text(_LEFT - 8, at + 4, f"{10.0**power:g}", anchor="end"))
    for calls in STORMS:
        parts.append(_text(x(calls), _HEIGHT - _BOTTOM + 18, str(calls), anchor="middle"))
    parts.append(
        _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 8, "pulls at once", anchor="middle")
    )
    labels: list[float] = []
    for color, (form, line) in zip(_COLORS, lines.items(), strict=False):
        points = [(x(calls), y(value)) for calls, value in line.items()]
        path = "L".join(f"{px:.1f} {py:.1f}" for px, py in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [
            f'<circle cx="{px:.1f}" cy="{py:.1f}" r="3" fill="{color}"/>' for px, py in points
        ]
        # Names of lines that end at the same point are stacked.
        at = points[-1][1] + 4
        while any(abs(at - other) < 14 for other in labels):
            at -= 2
        labels.append(at)
        parts.append(_text(points[-1][0] + 8, at, form, color=color))
    return "\n".join(parts)


def _floor(value: float) -> int:
    """Return the largest power of ten that is not above a positive value."""
    return int(log10(value) // 1)


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    color: str = "black",
    bold: bool = False,
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}"{weight}>'
        f"{escape(text)}</text>"
    )
