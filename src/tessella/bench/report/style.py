"""How the page of a ledger looks beyond what all pages share, and the script that sorts and picks."""

from __future__ import annotations

STYLE = """
h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--rule);
  overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 2rem 0 .5rem; }
h4 { font-size: .95rem; margin: 1rem 0 .4rem; overflow-wrap: anywhere; }
a { color: var(--link); }
:focus-visible { outline: 2px solid var(--link); outline-offset: 1px; }
nav ul, ul.key { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: 0 0 1rem; padding: 0; list-style: none; }
.scroll { margin-bottom: 1rem; }
table.board, table.plain { font-size: .875rem; }
table.board td, table.board th, table.plain td, table.plain th { padding: .35rem .6rem; }
table.plain td { white-space: nowrap; }
table.plain td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 8rem; }
table.board th[scope=row] { color: inherit; font: .85rem/1.4 ui-monospace, monospace; white-space: normal;
  overflow-wrap: anywhere; min-width: 8rem; max-width: 18rem; position: sticky; left: 0; background: var(--paper); }
@media (min-width: 40rem) { table.board th[scope=row] { min-width: 11rem; } }
table.board tr.reference > * { background: var(--band); }
th button { all: unset; cursor: pointer; color: inherit; font: inherit; }
th button::after { content: " ↕"; opacity: .45; }
th[aria-sort=descending] button::after { content: " ↓"; opacity: 1; }
th[aria-sort=ascending] button::after { content: " ↑"; opacity: 1; }
th button:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.bar { position: relative; display: block; height: .3rem; margin-top: .2rem; min-width: 6rem; background: var(--rule);
  border-radius: .15rem; }
.bar i { position: absolute; top: 0; bottom: 0; background: var(--link); opacity: .45; border-radius: .15rem; }
.bar b { position: absolute; top: -.1rem; bottom: -.1rem; width: .15rem; margin-left: -.075rem;
  background: var(--link); }
fieldset { border: 0; padding: 0; margin: 0 0 .5rem; display: flex; flex-wrap: wrap; gap: .25rem 1rem; }
fieldset[hidden], label[hidden] { display: none; }
ul.findings { list-style: none; margin: 0; padding: 0; }
ul.findings li { padding: .3rem 0 .3rem 5.5rem; text-indent: -5.5rem; overflow-wrap: anywhere; }
ul.findings b { display: inline-block; width: 5.5rem; text-indent: 0; font-weight: 600; }
.error b { color: var(--bad); } .note b { color: var(--soft); }
details { margin: .25rem 0; } summary { cursor: pointer; overflow-wrap: anywhere; }
pre { margin: .5rem 0; padding: .6rem .75rem; background: var(--band); border-radius: .4rem; font-size: .8rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .15rem 1rem; margin: .5rem 0;
  font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 30rem)); }
.small { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.small figure h4 { margin: 0; font-family: inherit; }
.panels.kept { gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
@media (max-width: 40rem) { .panels.kept { gap: .5rem; grid-template-columns: 1fr 1fr; }
  .panels.kept figure { padding: .4rem; font-size: .85rem; } }
figure > svg { display: block; width: 100%; height: auto; }
ul.key li { display: flex; align-items: center; gap: .3rem; font-size: .85rem; } ul.key svg { width: .85rem; }
figcaption p { margin: .25rem 0; font-size: .85rem; color: var(--soft); }
figcaption ol { margin: 0; padding-left: 1.5rem; font-size: .85rem; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); } svg .end { text-anchor: end; }
svg .middle { text-anchor: middle; } svg text.best { fill: var(--ink); font-weight: 700; }
svg .grid { stroke: var(--rule); fill: none; }
svg .point { fill: none; stroke: var(--soft); stroke-width: 1.2; } svg .point.best { fill: var(--link); stroke: none; }
svg path.point.best { stroke: var(--link); stroke-width: 1.2; }
svg .front { fill: none; stroke: var(--link); stroke-width: 1.5; }
svg .full, svg .blind { fill: none; stroke: var(--soft); stroke-width: 1; } svg .blind { stroke-dasharray: 5 4; }
.curve { fill: var(--faint); stroke: var(--faint); } .curve polyline { fill: none; stroke-width: 1; }
.curve circle { stroke: none; r: 1.2px; }
.curve.down { fill: var(--ink); stroke: var(--ink); }
.curve.down polyline { stroke-dasharray: 1.5 3; stroke-width: 1.5; }
.curve.on { fill: var(--link); stroke: var(--link); } .curve.on polyline { stroke-width: 2.4; }
.curve.on circle { r: 3px; }
p.pick { font-size: .9rem; } p.pick > * { margin-right: .5rem; }
.strong { color: var(--link); } .soft { color: var(--soft); }
select { font: inherit; max-width: 100%; color: inherit; background: var(--paper); border: 1px solid var(--rule);
  border-radius: .3rem; padding: .15rem .3rem; }
@media (prefers-reduced-motion: no-preference) { html { scroll-behavior: smooth; } }
@media print { figure, tr { break-inside: avoid; } }
"""

SCRIPT = """
'use strict';
for (const table of document.querySelectorAll('table.board')) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const value = (row, n) => {
    const text = row.cells[n].dataset.value;
    return text === '' ? null : isNaN(text) ? text : Number(text);
  };
  const sort = (n) => {
    const down = heads[n].getAttribute('aria-sort') ? heads[n].getAttribute('aria-sort') === 'ascending'
      : heads[n].classList.contains('number');
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a, n), y = value(b, n);
      if (x === null || y === null) return (x === null) - (y === null);
      return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
    });
    body.append(...rows);
    for (const head of heads) head.removeAttribute('aria-sort');
    heads[n].setAttribute('aria-sort', down ? 'descending' : 'ascending');
  };
  heads.forEach((head, n) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.textContent = head.textContent;
    button.addEventListener('click', () => sort(n));
    head.replaceChildren(button);
  });
}
for (const field of document.querySelectorAll('fieldset.keeps')) {
  field.hidden = false;
  const rows = field.parentElement.querySelectorAll('table.board tbody tr');
  field.addEventListener('change', (event) => {
    const keep = event.target.value;
    for (const row of rows) row.hidden = keep !== 'all' && row.dataset.keep !== '' && row.dataset.keep !== keep;
  });
}
for (const box of document.querySelectorAll('.multiples')) {
  const select = box.querySelector('select');
  select.parentElement.hidden = false;
  select.addEventListener('change', () => {
    box.querySelector('.picked').textContent = select.selectedOptions[0].textContent;
    for (const curve of box.querySelectorAll('[data-curve]')) {
      const on = curve.dataset.curve === select.value;
      curve.classList.toggle('on', on);
      if (on) curve.parentElement.append(curve);
    }
  });
}
"""
