"""Tables of a bench result: rows for the terminal, Markdown for pages, numbers with their intervals as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .statistics import Estimate

NOTHING = "-"  # a number that is not there


@dataclass(frozen=True)
class Table:
    """Rows of text under heads; `right` are the columns set flush right."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[int, ...] = ()

    def to_markdown(self) -> str:
        """The table with its title as a heading."""
        rule = [("---:" if n in self.right else "---") for n in range(len(self.heads))]
        lines = [_line([_escape(c) for c in row]) for row in (self.heads, *self.rows)]
        return "\n".join([f"### {self.title}", "", lines[0], _line(rule), *lines[1:]])


def to_markdown(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Tables, then notes as a list; ends with a newline."""
    parts = [table.to_markdown() for table in tables]
    if notes:
        parts.append("\n".join(f"- {_escape(note)}" for note in notes))
    return "\n\n".join(parts) + "\n"


def percent(estimate: Estimate | None, digits: int = 1) -> str:
    """A share in per cent with its interval.

    >>> percent(Estimate(0.7125, 0.691, 0.734))
    '71.2 [69.1, 73.4]'
    """
    if estimate is None:
        return NOTHING
    value, low, high = (number(100 * x, digits) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def points(estimate: Estimate | None, digits: int = 1, margin: float = 0.0) -> str:
    """A difference in percentage points with its interval and, of the interval, its side of the margin.

    >>> points(Estimate(-0.032, -0.05, -0.014))
    '-3.2 [-5.0, -1.4] worse'
    """
    if estimate is None:
        return NOTHING
    value, low, high = (_signed(100 * x, digits) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}] {estimate.side(margin)}"


def number(value: float | None, digits: int = 1) -> str:
    """A number with fixed digits; what rounds to 0 has no sign."""
    if value is None:
        return NOTHING
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def _signed(value: float, digits: int) -> str:
    text = number(value, digits)
    return f"+{text}" if float(text) > 0 else text


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
