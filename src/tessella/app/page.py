"""One self-contained page for a comparison: a table and a picture per method, nothing fetched from elsewhere."""

from __future__ import annotations

import base64
from html import escape
from typing import TYPE_CHECKING

from ..pictures.saving import encode_picture

if TYPE_CHECKING:
    from .answering import Comparison, Row

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e24; --soft: #5c616d; --paper: #fff; --rule: #dcdfe5; --band: #f4f5f8;
  --good: #146c43; --bad: #a3341f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9eaee; --soft: #a5aab6; --paper: #17181c; --rule: #363943;
  --band: #202228; --good: #6cc79a; --bad: #f0957f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 3rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere; font-family: ui-monospace, monospace; }
p.about, footer { color: var(--soft); margin: 0 0 1.5rem; }
.scroll { overflow-x: auto; margin-bottom: 2rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .45rem .75rem; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; }
td.method { font-family: ui-monospace, monospace; white-space: nowrap; }
td.answer { min-width: 8rem; overflow-wrap: anywhere; }
td.reason { color: var(--soft); }
.same { color: var(--good); } .differs { color: var(--bad); }
.panels { display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 19rem), 1fr)); }
figure { margin: 0; padding: .75rem; border: 1px solid var(--rule); border-radius: .5rem; background: var(--band); }
figure img { display: block; width: 100%; height: auto; border-radius: .25rem; background: #fff; }
figcaption { margin-top: .5rem; overflow-wrap: anywhere; }
footer { margin: 2rem 0 0; font-size: .85rem; }
"""

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
    from .. import __version__

    title = escape(comparison.question)
    asked = f"Keep {escape(comparison.keep)}" if comparison.keep else "Budgets as written in each method"
    heads = "".join(f'<th scope="col" class="{kind}">{name}</th>' for name, kind in _HEADS)
    rows = "\n".join(_row(row) for row in comparison.rows)
    panels = "\n".join(_panel(row) for row in comparison.rows if row.answer is not None)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · Tessella</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p class="about">{asked}. Kept patches show the picture, dropped ones are grey, merged ones are tinted and tied to the
patch that took them in.</p>
<div class="scroll"><table>
<thead><tr>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
<div class="panels">
{panels}
</div>
<footer>Made by Tessella {escape(__version__)}. Times are of one run after a warm-up, in milliseconds.</footer>
</body>
</html>
"""


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
    data = base64.b64encode(encode_picture(row.answer.draw(" ", size=448))).decode("ascii")
    kept = escape(row.answer.counts)
    return (
        f"<figure><h2>{escape(row.method)}</h2>"
        f'<img alt="{kept}, kept by {escape(row.method)}" src="data:image/png;base64,{data}">'
        f"<figcaption><strong>{escape(row.answer.answer) or '(no answer)'}</strong><br>{kept}</figcaption></figure>"
    )
