"""One self-contained page for a comparison: a table and a picture per method, nothing fetched from elsewhere."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ..pictures.figure import LEGEND, reduction_figure
from ..pictures.markup import document, footer

if TYPE_CHECKING:
    from .answering import Comparison, Row

_HEADS = (
    ("method", ""),
    ("answer", ""),
    ("same as full", ""),
    ("tokens kept", "number"),
    ("mean over layers", "number"),
    ("score + select", "number"),
    ("prefill", "number"),
    ("cache", "number"),
)


def comparison_page(comparison: Comparison) -> str:
    """The page as text. Every word that comes from outside is escaped."""
    asked = f"Keep {escape(comparison.keep)}" if comparison.keep else "Budgets as written in each method"
    heads = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in _HEADS)
    rows = "\n".join(_row(row) for row in comparison.rows)
    panels = "\n".join(_panel(row) for row in comparison.rows if row.answer is not None)
    body = f"""<h1>{escape(comparison.question)}</h1>
<p class="about">{asked}. {LEGEND}</p>
<div class="scroll"><table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
<div class="panels">
{panels}
</div>
{footer("Times are of one run after a warm-up, in milliseconds.")}"""
    return document(comparison.question, body)


def format_bytes(count: float) -> str:
    """A number of bytes with a unit: '1.2 MB'."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _row(row: Row) -> str:
    name = f'<td class="method">{escape(row.method)}</td>'
    if row.answer is None:
        return f'<tr>{name}<td class="reason" colspan="{len(_HEADS) - 1}">{escape(row.reason)}</td></tr>'
    report = row.answer.report
    ms = report["ms"]
    if row.same_as_full is None or row.is_full:
        same = "-"
    else:
        same = '<span class="same">✓ same</span>' if row.same_as_full else '<span class="differs">✗ differs</span>'
    numbers = (
        f"{report['tokens_kept']} of {report['tokens_in']}",
        f"{report['mean_keep_ratio']:.1%}",
        f"{ms.get('score', 0) + ms.get('select', 0):.1f}",
        f"{ms.get('prefill', 0):.1f}",
        format_bytes(report["cache_bytes"]),
    )
    cells = "".join(f'<td class="number">{n}</td>' for n in numbers)
    return f'<tr>{name}<td class="answer">{escape(row.answer.answer)}</td><td>{same}</td>{cells}</tr>'


def _panel(row: Row) -> str:
    assert row.answer is not None
    return reduction_figure(row.method, row.answer.shown, row.answer.answer, row.answer.counts)
