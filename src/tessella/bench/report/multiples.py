"""One small chart for each type of question: accuracy over keep, a line for each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from ..lint.intervals import curve_of
from ..records import BLIND, DOWNSAMPLE, FULL
from .boards import Board, Line
from .charts import Frame

TICKS = ((0.0, "0%"), (0.5, "50%"), (1.0, "100%"))
WIDTH, HEIGHT = 240.0, 168.0


@dataclass
class Curve:
    """A method at several keeps: for each the line of the leaderboard, by the number of the keep."""

    name: str
    lines: dict[int, Line] = field(default_factory=dict)

    def accuracy(self) -> tuple[int, float]:
        """At how many keeps it has an overall accuracy, and the mean of these."""
        values = [line.entry.accuracy.value for line in self.lines.values() if line.entry.accuracy]
        return len(values), sum(values) / len(values) if values else 0.0


def curves_of(board: Board) -> list[Curve]:
    """All methods with a keep, by name."""
    keeps = [s.keep for s in board.summary.sections]
    curves: dict[str, Curve] = {}
    for line in board.lines:
        setting = line.measured.setting
        if setting.keep is not None:
            curve = curves.setdefault(curve_of(setting), Curve(setting.method))
            curve.lines[keeps.index(setting.keep)] = line
    return sorted(curves.values(), key=lambda curve: curve.name)


def multiples_markup(board: Board) -> str:
    """All charts of a board under a list from which a method is picked; empty where nothing has a keep."""
    curves = curves_of(board)
    if not curves:
        return ""
    rivals = [c for c in curves if c.name != DOWNSAMPLE] or curves
    first = curves.index(max(rivals, key=Curve.accuracy))
    options = "".join(
        f'<option value="{n}"{" selected" if n == first else ""}>{escape(c.name)}</option>'
        for n, c in enumerate(curves)
    )
    figures = "\n".join(_figure(board, kind, curves, first) for kind in board.summary.kinds)
    return (
        f'<div class="multiples"><p class="pick"><label hidden>Method <select>{options}</select></label>'
        f'<span class="strong">▬</span> <span class="picked">{escape(curves[first].name)}</span> '
        "<span>┄ down-sampled pictures</span> <span>─ full model</span> <span>╌ no picture</span> "
        '<span class="soft">─ other methods</span></p>\n'
        f'<div class="small">{figures}</div></div>'
    )


def _figure(board: Board, kind: str, curves: Sequence[Curve], first: int) -> str:
    keeps = [s.keep for s in board.summary.sections if s.keep is not None]
    frame = Frame(WIDTH, HEIGHT, (-0.25, max(len(keeps) - 0.75, 0.75)), (0.0, 1.0))
    marks = [frame.axes([(n, keep) for n, keep in enumerate(keeps)], "keep", TICKS)]
    marks += [_level(frame, board, kind, FULL, "full"), _level(frame, board, kind, BLIND, "blind")]
    order = [n for n in range(len(curves)) if n != first] + [first]
    marks += [_curve(frame, kind, curves[n], n, n == first) for n in order]
    words = f"Accuracy on {kind} over keep, {len(curves)} methods; the tables below have the numbers."
    return f"<figure><h4>{escape(kind)}</h4>{frame.svg(words, ''.join(marks))}</figure>"


def _level(frame: Frame, board: Board, kind: str, method: str, look: str) -> str:
    """A reference that has no keep, as a level line."""
    line = next((line for line in board.lines if line.measured.method == method), None)
    if line is None or kind not in line.entry.by_type:
        return ""
    value = line.entry.by_type[kind].value
    return frame.line([(frame.x[0], value), (frame.x[1], value)], f'class="{look}"')


def _curve(frame: Frame, kind: str, curve: Curve, number: int, on: bool) -> str:
    values: Mapping[int, float] = {
        n: line.entry.by_type[kind].value for n, line in sorted(curve.lines.items()) if kind in line.entry.by_type
    }
    if not values:
        return ""
    points = [(float(n), value) for n, value in values.items()]
    look = "curve" + (" down" if curve.name == DOWNSAMPLE else "") + (" on" if on else "")
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>' for x, y in (frame.at(*p) for p in points))
    said = ", ".join(f"{value:.0%}" for value in values.values())
    title = f"<title>{escape(curve.name)}: {said}</title>"
    return f'<g class="{look}" data-curve="{number}">{title}{frame.line(points, "")}{dots}</g>'
