"""The page as text, a shared result as text, and the card of a method, which both of them have."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from ...app.demo import Example, bundled
from ...pictures.figure import LEGEND
from ...pictures.markup import document, footer
from ...pictures.saving import encode_picture
from .columns import Column, agreements

SCRIPTS = ("server.js", "picture.js", "methods.js", "asking.js")  # one after the other


def page_markup() -> str:
    """The page: complete in itself, with the bundled pictures as examples."""
    slots = {
        "examples": "".join(map(_example, bundled())),
        "legend": LEGEND,
        "card": card_markup(Column("")),
        "footer": footer("Nothing on this page comes from elsewhere."),
    }
    body = _asset("page.html")
    for name, markup in slots.items():
        body = body.replace(f"{{{{{name}}}}}", markup)
    script = "".join(map(_asset, SCRIPTS))
    style = _asset("cards.css") + _asset("page.css")
    return document("See which patches a model needs", body, style, script, live=True)


def shared_markup(question: str, model: str, columns: Sequence[Column]) -> str:
    """A result as a page of its own, on which nothing moves."""
    same = agreements(columns)
    cards = "\n".join(
        card_markup(column, verdict_markup(number, same.get(number))) for number, column in enumerate(columns)
    )
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    body = f"""<header><p class="brand">Tessella</p>
<h1>{escape(question)}</h1>
<p class="about">Answered by {escape(model)} on {today}, with every visual token and on part of them.</p></header>
<main><div id="cards">
{cards}
</div>
<p class="hint legend">{LEGEND} Milliseconds are of the batch in which a prompt was read.</p></main>
{footer()}"""
    return document(question, body, _asset("cards.css"))


def gone_markup(most: int) -> str:
    """What stands behind a link whose result is gone."""
    body = f"""<header><p class="brand">Tessella</p><h1>This result is gone</h1>
<p class="about">The server keeps the last {most} shared results, within a bound of memory. Ask again to make a new
one.</p></header>
<p><a href="/">Ask about a picture</a></p>
{footer()}"""
    return document("This result is gone", body, _asset("cards.css"))


def card_markup(column: Column, verdict: str = "") -> str:
    """The card of one method; all words in it are text and are escaped, its view and `verdict` are markup."""
    return f"""<article class="card">
<header><h3>{escape(column.name)}</h3><span class="verdict">{verdict}</span></header>
<p class="answer">{escape(column.answer.strip())}</p><p class="wrong">{escape(column.error)}</p>
<div class="view">{column.view}</div><div class="facts">{facts_markup(column)}</div></article>"""


def verdict_markup(number: int, same: bool | None) -> str:
    """Whether column `number` agrees with the first, the full model's."""
    if number == 0:
        return "the reference"
    if same is None:
        return ""
    return '<span class="same">✓ same answer</span>' if same else '<span class="differs">✗ other answer</span>'


def facts_markup(column: Column) -> str:
    """Tokens, milliseconds and notes, once the prompt was read."""
    reading = column.reading
    if reading is None:
        return ""
    kept, there = reading.visual_tokens_kept, reading.visual_tokens
    mean = f", {reading.mean_keep_ratio:.0%} over all layers" if reading.mean_keep_ratio * there - kept > 0.5 else ""
    cached = {"features": "The picture was encoded already.", "prompt": "The reduced picture was read already."}
    notes = [*([cached[reading.cached]] if reading.cached else []), *reading.notes]
    if reading.shown is not None and reading.shown.seen:
        notes.append(f"{reading.shown.seen[0].upper()}{reading.shown.seen[1:]}.")
    times = "".join(f"<div><dt>{part}</dt><dd>{_milliseconds(ms)}</dd></div>" for part, ms in column.ms.items())
    return (
        f"<p><b>{kept}</b> of {there} visual tokens{mean}</p>"
        f'<div class="gauge"><i style="width:{reading.mean_keep_ratio:.1%}"></i></div>'
        f"<dl>{times}</dl>{''.join(f'<p>{escape(note)}</p>' for note in notes)}"
    )


def _example(example: Example) -> str:
    data = base64.b64encode(encode_picture(example.image)).decode("ascii")
    question = escape(example.question)
    return (
        f'<button type="button" data-question="{question}" title="{question}">'
        f'<img width="{example.image.width}" height="{example.image.height}" alt="{question}" '
        f'src="data:image/png;base64,{data}"></button>'
    )


def _milliseconds(ms: float) -> str:
    return f"{ms:.1f} ms" if ms < 10 else f"{ms:,.0f} ms"


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8")
