"""One self-contained page of a ledger: leaderboards, charts, pictures, findings and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ...pictures.figure import LEGEND
from ...pictures.markup import document, footer
from ..lint import Finding
from .boards import Board, Line
from .commands import commands_of
from .frontier import frontier_markup
from .gallery import Gallery, gallery_markup
from .multiples import multiples_markup
from .style import SCRIPT, STYLE
from .tables import leaderboard_markup, table_markup

OPEN = 8  # findings that are seen at once


def report_page(
    title: str, boards: Sequence[Board], galleries: Sequence[Gallery], runs: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The page as text; a gallery for each board, and the facts of the runs. All words of a ledger are escaped."""
    numbered = list(enumerate(zip(boards, galleries, strict=True)))
    links = "".join(f'<li><a href="#board-{n}">{escape(board.title)}</a></li>' for n, (board, _) in numbered)
    nav = f'<nav aria-label="Boards"><ul>{links}</ul></nav>' if len(boards) > 1 else ""
    sections = "\n".join(_board(n, board, gallery) for n, (board, gallery) in numbered)
    num = sum(len(line.measured.records) for board in boards for line in board.lines)
    body = f"""<header><h1>{escape(title)}</h1>
<p class="about">{num:,} answers under {sum(len(b.lines) for b in boards)} settings.{escape(describe_runs(runs))}</p>
{nav}</header>
<main>
{sections}
</main>
{footer("Times are medians of milliseconds a sample, as the bench took them.")}"""
    return document(title, body, STYLE, SCRIPT)


def describe_runs(runs: Sequence[Mapping[str, Any]]) -> str:
    """Code and machines that the answers come from, each once, in words; empty where nothing is known."""
    seen: dict[str, None] = {}
    for facts in runs:
        commit = str(facts.get("commit", "no repository"))[:10] + ("" if facts.get("clean", True) else " with changes")
        accelerators = ", ".join(facts.get("accelerators", ())) or "no accelerator"
        machine = f"{facts.get('machine')}, {facts.get('cores')} cores, {facts.get('threads')} threads, {accelerators}"
        seen[f"{commit} on {facts.get('system')}, {machine}"] = None
    return f" Measured by {'; '.join(seen)}." if seen else ""


def _board(number: int, board: Board, gallery: Gallery) -> str:
    parts = (
        ("Findings", findings_markup(board.findings)),
        ("Leaderboard", _keeps(number, board) + leaderboard_markup(board.lines)),
        ("Accuracy against time", frontier_markup(board)),
        ("Time and memory", "\n".join(map(table_markup, board.times()))),
        ("Accuracy by type of question", multiples_markup(board)),
        ("Where methods disagree", _legend(gallery) + gallery_markup(gallery)),
        ("Notes and tables", _tables(board)),
        ("Settings", _settings(board)),
    )
    shown = [(name, markup) for name, markup in parts if markup]
    links = "".join(f'<li><a href="#{_id(number, name)}">{name}</a></li>' for name, _ in shown)
    nav = f'<nav aria-label="Parts of {escape(board.title)}"><ul>{links}</ul></nav>'
    sections = "\n".join(
        f'<section id="{_id(number, name)}"><h3>{name}</h3>\n{markup}</section>' for name, markup in shown
    )
    return f'<section id="board-{number}"><h2>{escape(board.title)}</h2>\n{nav}\n{sections}</section>'


def findings_markup(findings: Sequence[Finding]) -> str:
    """Findings as a list, the worst first."""
    if not findings:
        return '<p class="about">Nothing was found.</p>'
    items = [f'<li class="{f.level}"><b>{f.level}</b>{escape(f.where)}: {escape(f.text)}</li>' for f in findings]
    markup = f'<ul class="findings">{"".join(items[:OPEN])}</ul>'
    if len(items) > OPEN:
        more = f'<ul class="findings">{"".join(items[OPEN:])}</ul>'
        markup += f"<details><summary>{len(items) - OPEN} more</summary>{more}</details>"
    return markup


def _id(number: int, name: str) -> str:
    return f"board-{number}-{name.lower().replace(' ', '-')}"


def _keeps(number: int, board: Board) -> str:
    """Radio buttons that leave one keep in the leaderboard; shown where scripts run."""
    names = [s.keep or "own" for s in board.summary.sections]
    if len(names) < 2:
        return ""
    choices = [("all", "all keeps"), *((n, "own budgets" if n == "own" else f"keep {n}") for n in names)]
    buttons = "".join(
        f'<label><input type="radio" name="keep-{number}" value="{escape(value)}"{" checked" if not n else ""}> '
        f"{escape(text)}</label>"
        for n, (value, text) in enumerate(choices)
    )
    return f'<fieldset class="keeps" aria-label="Rows shown" hidden>{buttons}</fieldset>'


def _legend(gallery: Gallery) -> str:
    return f'<p class="about">{LEGEND}</p>' if gallery.exhibits else ""


def _tables(board: Board) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in board.summary.notes)
    tables = "\n".join(table_markup(table) for table in board.summary.tables())
    return (
        f"<details><summary>What the numbers mean</summary><ul>{notes}</ul></details>\n"
        f"<details><summary>All tables</summary>{tables}</details>"
    )


def _settings(board: Board) -> str:
    """What all settings share, once; then each setting with what is its own and the commands that repeat it."""
    details = [line.measured.setting.details for line in board.lines]
    shared = {k: v for k, v in details[0].items() if all(k in d and d[k] == v for d in details)}
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(_plain(v))}</dd>" for k, v in sorted(shared.items()))
    each = "\n".join(_setting(line, shared) for line in board.lines)
    return f"<dl>{rows}</dl>\n{each}"


def _setting(line: Line, shared: dict[str, Any]) -> str:
    setting = line.measured.setting
    own = {k: v for k, v in sorted(setting.details.items()) if k not in shared}
    commands = "\n".join(commands_of(line.measured))
    return (
        f"<details><summary><code>{escape(setting.pipeline)}</code></summary>"
        f'<div id="setting-{escape(setting.key)}"><pre><code>{escape(commands)}</code></pre>'
        f"<pre>{escape(json.dumps({'key': setting.key, **own}, indent=1, ensure_ascii=False))}</pre></div></details>"
    )


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
