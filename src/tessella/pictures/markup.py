"""What the pages share: the document around them, and how they and the figures on them look."""

from __future__ import annotations

import base64
import hashlib
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e24; --soft: #5c616d; --paper: #fff; --rule: #dcdfe5; --band: #f4f5f8;
  --good: #146c43; --bad: #a3341f; --link: #1f5a99; --faint: #c3c8d2; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9eaee; --soft: #a5aab6; --paper: #17181c; --rule: #363943;
  --band: #202228; --good: #6cc79a; --bad: #f0957f; --link: #8ab8ea; --faint: #4b4f5b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 3rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
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
figure img { display: block; width: 100%; height: auto; border-radius: .25rem; }
figure :is(h2, h3, h4, h5) { font-size: 1rem; margin: 0 0 .5rem; overflow-wrap: anywhere;
  font-family: ui-monospace, monospace; }
ul.fates, ol.steps { list-style: none; margin: .5rem 0 0; padding: 0; }
ul.fates { display: flex; flex-wrap: wrap; gap: .15rem 1rem; font-size: .875rem; color: var(--soft); }
ul.fates li { display: flex; align-items: center; gap: .4rem; }
ul.fates i { width: .8rem; height: .8rem; border-radius: .15rem; border: 1px solid var(--soft); }
ul.fates .kept i { background: linear-gradient(135deg, #0072b2, #e69f00); border: 2px solid var(--ink); }
ul.fates .merged i { background: #8fbfe0; border: 2px solid #0072b2; }
ul.fates .dropped i { background: #d3d5da; border-color: #b4b8c1; }
ol.steps { display: grid; gap: .5rem; grid-template-columns: repeat(auto-fit, minmax(3.5rem, 1fr)); }
ol.steps li { max-width: 8rem; font-size: .8rem; line-height: 1.35; color: var(--soft); }
ol.steps img { margin-bottom: .25rem; } ol.steps span { display: block; white-space: nowrap; }
figcaption { margin-top: .5rem; overflow-wrap: anywhere; }
footer { margin: 2rem 0 0; font-size: .85rem; }
"""

ICON = (  # three tiles; without one a browser asks its server for one
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABAAAAAQAgMAAABinRfyAAAADFBMVEUAAAAAcrLmnwAAnnPZ8zC+AAAAAXRSTlMA"
    "QObYZgAAACFJREFUeNpjYGBgYGAW9WKYzMTAwMCAjUAC9n+wK0GoAwBxHAJFEK8NTgAAAABJRU5ErkJggg=="
)


def document(title: str, body: str, style: str = "", script: str = "", live: bool = False) -> str:
    """A whole page around the markup of its body, which reaches for nothing outside itself.

    `title` is text. The page's own policy lets no script run but the one given here, whatever the body holds; that of a
    `live` page may ask the server that the page came from, and no other.
    """
    scripts = ""
    allowed = "'none'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
        scripts, allowed = f"<script>{script}</script>\n", f"'sha256-{digest}'"
    policy = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src 'unsafe-inline'"
    policy += f"; script-src {allowed}" + ("; connect-src 'self'" if live else "")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="{ICON}">
<title>{escape(title)} · Tessella</title>
<style>{STYLE}{style}</style>
</head>
<body>
{body}
{scripts}</body>
</html>
"""


def footer(words: str = "") -> str:
    """The last line of a page: what made it, and `words` (text)."""
    from .. import __version__

    return f"<footer>Made by Tessella {escape(__version__)}. {escape(words)}</footer>"
