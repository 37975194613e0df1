"""The page in a real browser: it loads fast and quietly, fits a phone, sorts and picks, and shows no foreign markup."""

from __future__ import annotations

import pytest

COLUMN = "[...document.querySelectorAll('#board-0 table.board tbody tr')].map(r => r.cells[{n}].dataset.value)"
SEEN = "[...document.querySelectorAll('#board-0 table.board tbody tr')].filter(r => !r.hidden).length"


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_loads_quietly_and_fits(browser, page, width, dark):
    browser.open(page, width, dark=dark)
    assert browser.problems == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd") < 2000  # milliseconds
    assert page.stat().st_size < 5_000_000
    paper = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(23, 24, 28)" if dark else "rgb(255, 255, 255)")
    smallest = browser.evaluate(
        "Math.min(...[...document.querySelectorAll('.charts text')].map(t => t.getBoundingClientRect().height))"
    )
    assert smallest > 8  # pixels of a line of a chart's words


def test_nothing_from_the_ledger_becomes_markup(browser, page):
    browser.open(page)
    assert browser.problems == []  # an image without a source would have been an error, and its handler another
    assert browser.evaluate("document.querySelectorAll('th b, dd b, option b, code b, figure b').length") == 0
    assert browser.evaluate("document.querySelector('h1').textContent").startswith("Bench: <img src=x")
    loaded = browser.evaluate("[...document.images].map(i => i.naturalWidth)")
    assert len(loaded) == 32 * 3  # each figure and its two steps
    assert min(loaded) == 140


def test_a_script_that_is_not_the_pages_own_may_not_run(browser, page, tmp_path):
    other = tmp_path / "other.html"
    other.write_text(page.read_text().replace("</main>", "<script>window.ran = true</script></main>", 1))
    browser.open(other)
    assert browser.evaluate("window.ran === undefined")
    assert len(browser.problems) == 1
    assert "Content Security Policy" in browser.problems[0]


def test_rows_are_sorted_by_click_and_by_key(browser, page):
    browser.open(page)
    head = "document.querySelectorAll('#board-0 table.board thead th')"
    accuracy = browser.evaluate(f"[...{head}].findIndex(h => h.textContent === 'accuracy %')")
    before = browser.evaluate(COLUMN.format(n=accuracy))
    button = f"{head}[{accuracy}].querySelector('button')"
    browser.evaluate(f"{button}.click()")
    down = [float(v) for v in browser.evaluate(COLUMN.format(n=accuracy))]
    assert down == sorted(map(float, before), reverse=True)
    assert down != [float(v) for v in before]
    assert browser.evaluate(f"{head}[{accuracy}].getAttribute('aria-sort')") == "descending"
    browser.evaluate(f"{button}.focus()")
    browser.press("Enter", "\r")
    assert [float(v) for v in browser.evaluate(COLUMN.format(n=accuracy))] == down[::-1]
    assert browser.evaluate(f"{head}[{accuracy}].getAttribute('aria-sort')") == "ascending"
    browser.evaluate(f"{head}[0].querySelector('button').click()")
    names = browser.evaluate(COLUMN.format(n=0))
    assert names == sorted(names)
    assert browser.evaluate("document.querySelectorAll('#board-0 [aria-sort]').length") == 1
    keeps = browser.evaluate(f"{head}[1].querySelector('button').click() || {COLUMN.format(n=1)}")
    assert keeps[-2:] == ["", ""]  # rows without a keep are last, whichever way


def test_one_keep_can_be_shown_alone(browser, page):
    browser.open(page)
    assert browser.evaluate(SEEN) == 2 + 4 * 21
    browser.evaluate("document.querySelector('#board-0 input[value=\"1/9\"]').click()")
    assert browser.evaluate(SEEN) == 2 + 21
    browser.evaluate("document.querySelector('#board-0 input[value=all]').click()")
    assert browser.evaluate(SEEN) == 2 + 4 * 21


def test_a_method_is_picked_out_in_every_chart(browser, page):
    browser.open(page)
    on = (
        "[...new Set([...document.querySelectorAll('#board-0 .curve.on title')].map(t => t.textContent.split(':')[0]))]"
    )
    assert browser.evaluate(on) == ["compose(score=method_0, select=<b>another</b>)"]
    browser.evaluate(
        "{ const s = document.querySelector('#board-0 select');"
        "s.value = [...s.options].find(o => o.text === 'method_7').value; s.dispatchEvent(new Event('change')); }"
    )
    assert browser.evaluate(on) == ["method_7"]
    assert browser.evaluate("document.querySelectorAll('#board-0 .curve.on').length") == 4  # one for each type
    assert browser.evaluate("document.querySelector('#board-0 .picked').textContent") == "method_7"


def test_a_row_leads_to_the_command_that_repeats_it(browser, page):
    browser.open(page)
    browser.evaluate("document.querySelector('#board-0 table.board th[scope=row] a').click()")
    opened = "document.querySelector('#board-0 details[open] pre').textContent"
    assert browser.evaluate(opened).startswith("tessella bench --methods none --only")
