"""Accuracy against time: a point for each setting, and the line of those that nothing beats in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from .boards import Board, Line
from .charts import Frame, round_ticks, span
from .columns import ALL, READ, milliseconds

SHAPES = (  # of points, by keep: drawn around the middle
    '<circle cx="{x}" cy="{y}" r="3.4"{a}/>',
    '<path d="M{x} {y}m0 -4.2l4 7h-8z"{a}/>',
    '<path d="M{x} {y}m-3.2 -3.2h6.4v6.4h-6.4z"{a}/>',
    '<path d="M{x} {y}m0 -4.4l4.4 4.4l-4.4 4.4l-4.4 -4.4z"{a}/>',
    '<path d="M{x} {y}m0 4.2l4 -7h-8z"{a}/>',
)
OTHER = '<path d="M{x} {y}m-3.4 -3.4l6.8 6.8m0 -6.8l-6.8 6.8"{a}/>'  # references, and budgets of a pipeline's own
TIMES: tuple[tuple[str, tuple[str, ...] | None], ...] = (
    ("milliseconds to the first token", READ),
    ("milliseconds to the whole answer", ALL),
)


@dataclass(frozen=True)
class Point:
    """A setting by its median time and its accuracy."""

    line: Line
    ms: float
    accuracy: float

    @property
    def name(self) -> str:
        keep = self.line.measured.setting.keep
        return self.line.measured.label + (f", keep {keep}" if keep else "")


def frontier(points: Sequence[Point]) -> list[Point]:
    """From the fastest on, each point that is more accurate than all faster ones."""
    out: list[Point] = []
    for point in sorted(points, key=lambda p: (p.ms, -p.accuracy)):
        if not out or point.accuracy > out[-1].accuracy:
            out.append(point)
    return out


def points_of(board: Board, parts: tuple[str, ...] | None) -> list[Point]:
    """The settings of a board that have a time and an overall accuracy."""
    out = []
    for line in board.lines:
        ms = milliseconds(line, parts)
        if ms is not None and line.entry.accuracy is not None:
            out.append(Point(line, ms, line.entry.accuracy.value))
    return out


def frontier_markup(board: Board) -> str:
    """Both charts of a board, each with its frontier in words."""
    figures = [_figure(board, label, points_of(board, parts)) for label, parts in TIMES]
    return '<div class="charts">' + "\n".join(f for f in figures if f) + "</div>"


def _figure(board: Board, label: str, points: Sequence[Point]) -> str:
    if len(points) < 2:
        return ""
    best = frontier(points)
    frame = Frame(360, 260, span([p.ms for p in points]), span([p.accuracy for p in points]))
    shape = _shapes(board)
    x_ticks = [(v, f"{v:g}") for v in round_ticks(frame.x)]
    y_ticks = [(v, f"{100 * v:g}%") for v in round_ticks(frame.y)]
    marks = [frame.axes(x_ticks, label, y_ticks), frame.line([(p.ms, p.accuracy) for p in best], 'class="front"')]
    marks += [_mark(frame, p, shape(p.line), "point") for p in points if p not in best]
    for number, p in enumerate(best, start=1):
        x, y = frame.at(p.ms, p.accuracy)
        marks.append(_mark(frame, p, shape(p.line), "point best"))
        marks.append(f'<text x="{x - 6:.1f}" y="{y - 5:.1f}" class="end best">{number}</text>')
    words = "".join(f"<li>{escape(p.name)}: {p.accuracy:.1%} in {p.ms:.2f} ms</li>" for p in best)
    text = f"Accuracy of {len(points)} settings against {label}; the list below has those on the frontier."
    return (
        f"<figure>{frame.svg(text, ''.join(marks))}<figcaption>{_legend(board)}"
        f"<p>Nothing here is faster and more accurate than</p><ol>{words}</ol></figcaption></figure>"
    )


def _shapes(board: Board) -> Callable[[Line], str]:
    keeps = [s.keep for s in board.summary.sections if s.keep is not None]

    def shape(line: Line) -> str:
        keep = line.measured.setting.keep
        return OTHER if keep is None else SHAPES[keeps.index(keep) % len(SHAPES)]

    return shape


def _mark(frame: Frame, point: Point, shape: str, kind: str) -> str:
    x, y = frame.at(point.ms, point.accuracy)
    drawn = shape.format(x=f"{x:.1f}", y=f"{y:.1f}", a=f' class="{kind}"')
    title = escape(f"{point.name}: {point.accuracy:.1%}, {point.ms:.2f} ms")
    return f"<g><title>{title}</title>{drawn}</g>"


def _legend(board: Board) -> str:
    keeps = [s.keep for s in board.summary.sections if s.keep is not None]
    shapes = [(SHAPES[n % len(SHAPES)], f"keep {keep}") for n, keep in enumerate(keeps)] + [(OTHER, "no keep")]
    items = "".join(
        f'<li><svg viewBox="0 0 12 12" aria-hidden="true">{s.format(x=6, y=6, a=" class=point")}</svg>{escape(t)}</li>'
        for s, t in shapes
    )
    return f'<ul class="key">{items}</ul>'
