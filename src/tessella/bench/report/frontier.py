"""Accuracy against time: a point for each setting, and the line of those that nothing beats in both."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from .boards import Board, Line
from .charts import Frame, round_ticks, scale_ticks, span

SHAPES = (  # of points, by keep: drawn around the middle
    '<circle cx="{x}" cy="{y}" r="3.4"{a}/>',
    '<path d="M{x} {y}m0 -4.2l4 7h-8z"{a}/>',
    '<path d="M{x} {y}m-3.2 -3.2h6.4v6.4h-6.4z"{a}/>',
    '<path d="M{x} {y}m0 -4.4l4.4 4.4l-4.4 4.4l-4.4 -4.4z"{a}/>',
    '<path d="M{x} {y}m0 4.2l4 -7h-8z"{a}/>',
)
OTHER = '<path d="M{x} {y}m-3.4 -3.4l6.8 6.8m0 -6.8l-6.8 6.8"{a}/>'  # references, and budgets of a pipeline's own
NUMBER_WIDTH = 15.0


@dataclass(frozen=True)
class Point:
    """A setting by its median time and its accuracy."""

    line: Line
    ms: float
    accuracy: float

    @property
    def place(self) -> tuple[float, float]:
        """On a chart with a logarithmic time."""
        return math.log10(self.ms), self.accuracy

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


def times_of(board: Board) -> dict[str, dict[str, float]]:
    """Milliseconds by setting, under what they are of: first those of the answers, then those of timing passes.

    Settings that change the pictures are timed from pixels on, so that passes say nothing of them beside others.
    """
    answers = {line.measured.setting.key: line.milliseconds for line in board.lines}
    out = {
        "milliseconds to the first token": {key: ms["first token"] for key, ms in answers.items()},
        "milliseconds to the whole answer": {key: ms["all"] for key, ms in answers.items()},
    }
    for (key, size), told in sorted(board.timings.items(), key=lambda item: item[0][1]):
        if not told["from_pixels"]:
            label = f"milliseconds to read a batch of {size}, timed apart"
            out.setdefault(label, {})[key] = told["prefill_ms"]["median"]
    return out


def points_of(board: Board, times: Mapping[str, float]) -> list[Point]:
    """The settings of a board that have a time and an overall accuracy."""
    out = []
    for line in board.lines:
        ms, accuracy = times.get(line.measured.setting.key, 0.0), line.entry.accuracy
        if ms > 0 and accuracy is not None:
            out.append(Point(line, ms, accuracy.value))
    return out


def frontier_markup(board: Board) -> str:
    """The charts of a board, each with its frontier in words; empty where there is no time to compare."""
    figures = [_figure(board, label, points_of(board, times)) for label, times in times_of(board).items()]
    return f'<div class="charts">{"".join(figures)}</div>' if any(figures) else ""


def _figure(board: Board, label: str, points: Sequence[Point]) -> str:
    if len(points) < 2:
        return ""
    best = frontier(points)
    frame = Frame(360, 260, span([math.log10(p.ms) for p in points]), span([p.accuracy for p in points]))
    shape = _shapes(board)
    x_ticks = [(math.log10(v), f"{v:g}") for v in scale_ticks(frame.x)]
    y_ticks = [(v, f"{100 * v:g}%") for v in round_ticks(frame.y)]
    marks = [frame.axes(x_ticks, label, y_ticks), frame.line([p.place for p in best], 'class="front"')]
    marks += [_mark(frame, p, shape(p.line), "point") for p in points if p not in best]
    marks += [_mark(frame, p, shape(p.line), "point best") for p in best]
    marks.append(_numbers(frame, best))
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
    x, y = frame.at(*point.place)
    drawn = shape.format(x=f"{x:.1f}", y=f"{y:.1f}", a=f' class="{kind}"')
    title = escape(f"{point.name}: {point.accuracy:.1%}, {point.ms:.2f} ms")
    return f"<g><title>{title}</title>{drawn}</g>"


def _numbers(frame: Frame, best: Sequence[Point]) -> str:
    """The numbers of the points on a frontier, but for those that would stand on another."""
    out = []
    free = 0.0
    for number, point in enumerate(best, start=1):
        x, y = frame.at(*point.place)
        if x >= free:
            out.append(f'<text x="{x - 5:.1f}" y="{y - 5:.1f}" class="end best">{number}</text>')
            free = x + NUMBER_WIDTH
    return "".join(out)


def _legend(board: Board) -> str:
    keeps = [s.keep for s in board.summary.sections if s.keep is not None]
    shapes = [(SHAPES[n % len(SHAPES)], f"keep {keep}") for n, keep in enumerate(keeps)] + [(OTHER, "no keep")]
    drawn = [(shape.format(x=6, y=6, a=' class="point"'), text) for shape, text in shapes]
    items = "".join(
        f'<li><svg viewBox="0 0 12 12" aria-hidden="true">{mark}</svg>{escape(text)}</li>' for mark, text in drawn
    )
    return f'<ul class="key">{items}</ul>'
