"""Small charts as SVG: a frame with axes, to which marks are added. Colours come from the page's own style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LEFT, RIGHT, TOP, BOTTOM = 38.0, 8.0, 8.0, 32.0  # room for the words around the plot


@dataclass(frozen=True)
class Frame:
    """A plot of `width` x `height` units (a pixel on a phone), with the values at the ends of its axes."""

    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pair of values lies."""
        (x0, x1), (y0, y1) = self.x, self.y
        right, down = self.width - LEFT - RIGHT, self.height - TOP - BOTTOM
        return LEFT + right * (x - x0) / (x1 - x0), TOP + down * (y1 - y) / (y1 - y0)

    def axes(self, x_ticks: Sequence[tuple[float, str]], x_label: str, y_ticks: Sequence[tuple[float, str]]) -> str:
        """Grid lines and their words."""
        out = []
        for y, text in y_ticks:
            _, at = self.at(self.x[0], y)
            out.append(f'<path class="grid" d="M{LEFT:.1f} {at:.1f}H{self.width - RIGHT:.1f}"/>')
            out.append(f'<text x="{LEFT - 5:.1f}" y="{at + 4:.1f}" class="end">{escape(text)}</text>')
        for x, text in x_ticks:
            at, _ = self.at(x, self.y[0])
            out.append(f'<text x="{at:.1f}" y="{self.height - BOTTOM + 14:.1f}" class="middle">{escape(text)}</text>')
        middle = LEFT + (self.width - LEFT - RIGHT) / 2
        out.append(f'<text x="{middle:.1f}" y="{self.height - 3:.1f}" class="middle label">{escape(x_label)}</text>')
        return "".join(out)

    def line(self, points: Sequence[tuple[float, float]], attributes: str) -> str:
        """A line through pairs of values."""
        places = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.at(*p) for p in points))
        return f'<polyline points="{places}" {attributes}/>'

    def svg(self, label: str, marks: str) -> str:
        """The whole chart; `label` says in words what is seen."""
        box = f"0 0 {self.width:g} {self.height:g}"
        return f'<svg viewBox="{box}" role="img" aria-label="{escape(label)}">{marks}</svg>'


def span(values: Sequence[float], room: float = 0.05) -> tuple[float, float]:
    """The range of some values with a share of it as room on both sides; never empty."""
    low, high = min(values), max(values)
    more = (high - low) * room or abs(high) * room or 1.0
    return low - more, high + more


def scale_ticks(ends: tuple[float, float]) -> list[float]:
    """The round numbers on a logarithmic axis whose ends are given as powers of ten.

    >>> scale_ticks((0.0, 1.5))
    [1.0, 2.0, 5.0, 10.0, 20.0]
    >>> scale_ticks((1.5, 1.7))
    [40.0, 50.0]
    """
    low, high = ends
    powers = range(math.floor(low), math.ceil(high) + 1)
    all_ticks = [digit * 10.0**power for power in powers for digit in range(1, 10)]
    ticks = [tick for tick in all_ticks if low <= math.log10(tick) <= high]
    few = [tick for tick in ticks if f"{tick:e}"[0] in "125"]
    return few if len(few) > 2 else ticks


def round_ticks(ends: tuple[float, float], most: int = 5) -> list[float]:
    """At most `most` round numbers inside a range.

    >>> round_ticks((0.0, 1.0))
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    low, high = ends
    size = 10.0 ** math.floor(math.log10(high - low))
    steps = (s * size for s in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 2.5, 5.0))
    for step in steps:
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if 2 <= last - first + 1 <= most:
            break
    return [round(n * step, 10) for n in range(first, last + 1)]
