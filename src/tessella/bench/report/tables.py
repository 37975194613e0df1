"""Tables of the page: the leaderboard, which can be sorted, and plain ones."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..statistics import Estimate
from ..tables import Table
from .boards import Line
from .columns import COLUMNS, Column


def leaderboard_markup(lines: Sequence[Line]) -> str:
    """The leaderboard as a table whose cells carry the values that they are sorted by."""
    heads = "".join(
        f'<th scope="col" data-sort class="{_kind(c)}" title="{escape(c.about)}">{escape(c.head)}</th>' for c in COLUMNS
    )
    rows = "\n".join(_row(line) for line in lines)
    about = "".join(f"<dt>{escape(c.head)}</dt><dd>{escape(c.about)}</dd>" for c in COLUMNS)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Leaderboard"><table class="board">'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n"
        f'<details><summary>What the columns are</summary><dl class="columns">{about}</dl></details>'
    )


def table_markup(table: Table) -> str:
    """A plain table under its title."""
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in table.heads)
    rows = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    label = escape(table.title)
    return (
        f'<h4>{label}</h4>\n<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table class="plain">'
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(line: Line) -> str:
    keep = "" if line.is_reference else escape(line.measured.setting.keep or "own")
    cells = "".join(_cell(line, column) for column in COLUMNS)
    return f'<tr data-keep="{keep}"{" class=reference" if line.is_reference else ""}>{cells}</tr>'


def _cell(line: Line, column: Column) -> str:
    value = column.value(line)
    shown = "" if value is None else escape(f"{value:.6g}" if isinstance(value, float | int) else value)
    estimate = None if column.estimate is None else column.estimate(line)
    bar = "" if estimate is None else _bar(estimate)
    tag = 'th scope="row"' if column.head == "method" else "td"
    text = escape(column.text(line))
    if column.head == "method":
        text = f'<a href="#setting-{escape(line.measured.setting.key)}">{text}</a>'
    return f'<{tag} class="{_kind(column)}" data-value="{shown}">{text}{bar}</{tag.split()[0]}>'


def _bar(estimate: Estimate) -> str:
    """The interval on a scale from 0 to 1."""
    low, value, high = (100 * min(1.0, max(0.0, x)) for x in (estimate.low, estimate.value, estimate.high))
    width = max(high - low, 0.5)
    return (
        f'<span class="bar"><i style="left:{low:.1f}%;width:{width:.1f}%"></i><b style="left:{value:.1f}%"></b></span>'
    )


def _kind(column: Column) -> str:
    return "number" if column.is_number else "method" if column.head == "method" else ""
