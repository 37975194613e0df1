"""One self-contained page of a diagnosis: figures with the words beside them, nothing fetched from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

from ..pictures.markup import document
from .diagnosis import Diagnosis, Finding
from .figures import to_png

_STYLE = """
body { max-width: 60rem; }
h2 { font-size: 1.2rem; margin: 0 0 .5rem; }
a { color: var(--link); }
p.about, footer { overflow-wrap: anywhere; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0 0 1.5rem; padding: 0; list-style: none; }
section { margin: 0 0 2rem; padding: 1.25rem 0 0; border-top: 1px solid var(--rule); }
figure { margin: 0 0 1rem; background: #fff; overflow-x: auto; }
figure img { margin: 0 auto; width: auto; max-width: 100%; }
dl { margin: 0; } dt { font-weight: 600; font-size: .85rem; color: var(--soft); }
dd { margin: 0 0 .75rem; overflow-wrap: anywhere; }
ul.out { padding-left: 1.25rem; overflow-wrap: anywhere; }
@media print { figure { break-inside: avoid; } }
"""


def diagnosis_page(diagnosis: Diagnosis, title: str, facts: Mapping[str, str], data_file: str | None = None) -> str:
    """The page as text. `facts` stand below the title; `data_file` is the name of the JSON file beside the page."""
    from .. import __version__

    about = " · ".join(f"{escape(name)}: {escape(value)}" for name, value in facts.items())
    links = "\n".join(f'<li><a href="#{f.instrument}">{escape(f.note.title)}</a></li>' for f in diagnosis.findings)
    sections = "\n".join(_section(finding) for finding in diagnosis.findings)
    file = "" if data_file is None else f' All numbers: <a href="{escape(data_file)}">{escape(data_file)}</a>.'
    body = f"""<h1>{escape(title)}</h1>
<p class="about">{about}</p>
<nav aria-label="Instruments"><ul>
{links}
</ul></nav>
{sections}
{_left_out(diagnosis)}<footer>Made by Tessella {escape(__version__)}.{file}</footer>"""
    return document(title, body, _STYLE)


def _section(finding: Finding) -> str:
    note, figure = finding.note, finding.draw()
    data = base64.b64encode(to_png(figure)).decode("ascii")
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    words = (("What is seen", note.seen), ("How it was measured", note.how), ("What it does not show", note.limits))
    rows = "\n".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in words)
    return f"""<section id="{finding.instrument}">
<h2>{escape(note.title)}</h2>
<figure><img width="{width}" height="{height}" alt="{escape(note.alt)}" src="data:image/png;base64,{data}"></figure>
<dl>
{rows}
</dl>
</section>"""


def _left_out(diagnosis: Diagnosis) -> str:
    if not diagnosis.left_out:
        return ""
    rows = "".join(f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in diagnosis.left_out.items())
    return f'<section id="left-out"><h2>Left out</h2><ul class="out">{rows}</ul></section>\n'
