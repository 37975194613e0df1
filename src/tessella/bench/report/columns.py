"""The columns of a leaderboard: what stands in a cell, and by what it is sorted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..records import DOWNSAMPLE, FULL
from ..statistics import Estimate
from ..tables import NOTHING, Table, number, percent, points
from .boards import Line


@dataclass(frozen=True)
class Column:
    """A head, what it means in a sentence, the text of a cell, and its value; None where a line has none.

    `estimate` is there where a cell has an interval to draw.
    """

    head: str
    about: str
    text: Callable[[Line], str]
    value: Callable[[Line], float | str | None]
    estimate: Callable[[Line], Estimate | None] | None = None

    @property
    def is_number(self) -> bool:
        return self.head not in ("method", "keep")


def _accuracy(line: Line) -> Estimate | None:
    return line.entry.accuracy


def _to(name: str) -> Callable[[Line], Estimate | None]:
    def difference(line: Line) -> Estimate | None:
        # a reference stands beside several keeps, and so has no one down-sampled picture beside it
        return None if name == DOWNSAMPLE and line.is_reference else line.entry.against[name]

    return difference


def _hard(line: Line) -> Estimate | None:
    return None if line.entry.hard is None or line.is_reference else line.entry.hard.estimate


def _estimated(
    head: str, about: str, find: Callable[[Line], Estimate | None], text: Callable[[Estimate | None], str], bar: bool
) -> Column:
    def value(line: Line) -> float | None:
        estimate = find(line)
        return None if estimate is None else estimate.value

    return Column(head, about, lambda line: text(find(line)), value, find if bar else None)


def _measured(head: str, about: str, find: Callable[[Line], float | None], digits: int) -> Column:
    return Column(head, about, lambda line: number(find(line), digits), find)


def _whole_percent(estimate: Estimate | None) -> str:
    return percent(estimate, 0)


COLUMNS = (
    Column("method", "the pipeline", lambda line: line.entry.name, lambda line: line.entry.name),
    Column(
        "keep",
        "what was asked for; - where a pipeline has a budget of its own, or none",
        lambda line: line.measured.setting.keep or NOTHING,
        lambda line: None if line.measured.setting.keep is None else line.measured.average("tokens_kept"),
    ),
    _estimated("accuracy %", "mean over types, of equal weight", _accuracy, percent, True),
    _measured("tokens", "visual tokens after the last cut", lambda line: line.measured.average("tokens_kept"), 1),
    _measured(
        "mean %",
        "their share on the mean over decoder layers",
        lambda line: 100 * line.measured.average("mean_keep_ratio"),
        1,
    ),
    _measured("choose ms", "scoring and selecting, median of a sample", lambda line: line.milliseconds["choose"], 2),
    _measured(
        "first token ms", "encoding, choosing and reading the prompt", lambda line: line.milliseconds["first token"], 2
    ),
    _estimated("to full", "points over the full model", _to(FULL), points, False),
    _estimated("to downsample", "points over down-sampled pictures of the same keep", _to(DOWNSAMPLE), points, False),
    _estimated(
        "retention %", "(accuracy - blind) / (full - blind)", lambda line: line.entry.retention, _whole_percent, False
    ),
    _estimated(
        "hard %",
        "of what the full model answers correctly and the down-sampled picture does not",
        _hard,
        _whole_percent,
        False,
    ),
    _measured("all ms", "the same with writing the answer", lambda line: line.milliseconds["all"], 2),
    _measured("cache kB", "keys and values of a sample", lambda line: line.measured.average("cache_bytes") / 1000, 0),
)

IN_A_TERMINAL = ("method", "keep", "accuracy %", "tokens", "mean %", "choose ms", "first token ms", "to full")


def leaderboard(lines: Sequence[Line], title: str) -> Table:
    """The main columns as text."""
    columns = [c for c in COLUMNS if c.head in IN_A_TERMINAL]
    rows = tuple(tuple(c.text(line) for c in columns) for line in lines)
    return Table(title, tuple(c.head for c in columns), rows, (3, 4, 5, 6))
