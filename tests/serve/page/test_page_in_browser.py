"""The page in a real browser: what a visitor does with it, by mouse, by keys, on a phone and in the dark."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from page_stream import compare
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright
from real_server import RealServer, data_url

from chromium import MISSING, PATH

Open = Callable[..., Page]
COMPLETE = "Every answer is complete."


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if PATH is None:
        pytest.skip(MISSING)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PATH, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser, server: RealServer) -> Iterator[Open]:
    """Opens the page. At the end nothing must have been wrong, and nothing asked of another server."""
    problems: list[str] = []
    contexts = []

    def open_at(
        width: int = 1280, scheme: str = "light", url: str = server.url, expects: tuple[str, ...] = (), **more: Any
    ) -> Page:
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, **more)
        contexts.append(context)
        page = context.new_page()

        def note(message: Any) -> None:
            if message.type in ("error", "warning") and not any(word in message.text for word in expects):
                problems.append(message.text)

        page.on("console", note)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda r: None if r.url.startswith((url, "data:")) else problems.append(r.url))
        page.goto(url)
        return page

    yield open_at
    for context in contexts:
        context.close()
    assert problems == []


def _png(image: Image.Image) -> dict[str, Any]:
    written = io.BytesIO()
    image.save(written, "png")
    return {"name": "photo.png", "mimeType": "image/png", "buffer": written.getvalue()}


def _cards(page: Page) -> Locator:
    expect(page.locator("#status")).to_have_text(COMPLETE, timeout=30_000)
    return page.locator(".card")


def _answers(page: Page) -> list[str]:
    return [text.strip() for text in page.locator(".card .answer").all_inner_texts()]


def _choose(page: Page, *methods: str) -> None:
    expect(page.locator("#chosen button").first).to_be_visible()
    while page.locator("#chosen button").count():
        page.locator("#chosen button").first.click()
    for method in methods:
        page.locator("#filter").fill(method)
        page.locator("#filter").press("Enter")
    page.locator("#filter").fill("")


def _overflow(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_an_example_comes_alive_in_one_click(open_page, server, examples):
    page = open_page()
    expect(page.locator("#chosen button")).to_have_count(4)
    page.get_by_role("button", name=examples[1].question).click()
    cards = _cards(page)
    with server.http() as http:
        methods = ["visionzip", "hiprune", "divprune", "pyramiddrop"]
        told = compare(http, data_url(examples[1].image), examples[1].question, methods)
    assert cards.locator("h3").all_inner_texts() == [column["name"] for column in told["columns"]]
    assert _answers(page) == [column["text"].strip() for column in told["columns"]]
    verdicts = cards.locator(".verdict").all_inner_texts()
    assert verdicts[0] == "the reference"
    assert all("answer" in verdict for verdict in verdicts[1:])
    assert cards.nth(4).locator(".steps li").count() == 3
    widths = page.evaluate("[...document.querySelectorAll('.card img')].map(i => i.naturalWidth)")
    assert len(widths) == 8
    assert min(widths) > 100


def test_a_picture_of_ones_own_a_question_methods_and_a_budget(open_page, server, examples):
    page = open_page()
    _choose(page, "prumerge", "divprune:0.5 | fastv@1:9")
    page.locator("#file").set_input_files(_png(examples[0].image))
    expect(page.locator("#picture-note")).to_have_text("112 x 112 pixels, 196 visual tokens")
    page.locator("#question").fill("what word is written?")
    page.locator("#keep").fill("3")
    expect(page.locator("#budget")).to_have_text("1/4, about 49 of 196 visual tokens")
    assert page.locator("#keep").get_attribute("aria-valuetext") == "1/4, about 49 of 196 visual tokens"
    page.locator("#go").click()
    cards = _cards(page)
    assert cards.locator("h3").all_inner_texts() == ["full model", "prumerge:0.25", "divprune:0.5 | fastv@1:9"]
    assert "49 of 196" in cards.nth(1).locator(".facts").inner_text()
    with server.http() as http:
        told = compare(http, data_url(examples[0].image), "what word is written?", ["prumerge"], "1/4")
    assert _answers(page)[1] == told["columns"][1]["text"].strip()


def test_a_picture_can_be_dropped_and_pasted(open_page, examples):
    page = open_page()
    for kind, target in (("drop", "document.body"), ("paste", "document.querySelector('#question')")):
        data = base64.b64encode(_png(examples[0].image.resize((60 if kind == "drop" else 80, 40)))["buffer"]).decode()
        page.evaluate(
            f"""(data) => {{
              const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
              const transfer = new DataTransfer();
              transfer.items.add(new File([bytes], "photo.png", {{ type: "image/png" }}));
              const options = {{ bubbles: true, cancelable: true, dataTransfer: transfer, clipboardData: transfer }};
              const event = "{kind}" === "drop" ? new DragEvent("drop", options) : new ClipboardEvent("paste", options);
              {target}.dispatchEvent(event);
            }}""",
            data,
        )
        width = 60 if kind == "drop" else 80
        expect(page.locator("#picture-note")).to_have_text(f"{width} x 40 pixels, 196 visual tokens")


def test_a_result_is_shared_by_link(open_page, chromium):
    page = open_page()
    _choose(page, "hiprune")
    page.locator(".examples button").first.click()
    _cards(page)
    answers = _answers(page)
    page.locator("#share").click()
    expect(page.locator("#link")).to_be_focused()
    link = page.locator("#link").input_value()
    expect(page.locator("#status")).to_contain_text("It is kept until 200 newer ones are shared")
    other = open_page(url=link)
    assert other.locator("h1").inner_text() == page.locator("#question").input_value()
    assert _answers(other) == answers
    assert other.locator(".card img").count() == 2
    assert other.locator("script").count() == 0


def test_everything_can_be_done_by_keys_alone(open_page):
    page = open_page(reduced_motion="reduce")
    expect(page.locator("#chosen button")).to_have_count(4)
    seen = []
    for _ in range(30):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.parentElement.className"))
        ring = page.evaluate(
            """(() => { const e = document.activeElement;
               const shown = e.classList.contains("unseen") ? e.nextElementSibling : e;
               return getComputedStyle(shown).outlineStyle; })()"""
        )
        assert ring == "solid", seen[-1]
        if seen[-1] == "examples":
            page.keyboard.press("Enter")
            break
    assert seen == ["file", "examples"]
    _cards(page)
    while page.evaluate("document.activeElement.id") != "go":
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id"))
        assert len(seen) < 100, seen
    assert [name for name in seen if name in ("question", "filter", "keep", "go")] == [
        "question",
        "filter",
        "keep",
        "go",
    ]
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#budget")).to_contain_text("1/6, about 33 of 196")
    page.keyboard.press("Control+Enter")
    assert _cards(page).locator("h3").nth(1).inner_text() == "visionzip:1/6"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_and_is_readable_on_a_phone_and_in_the_dark(open_page, width, scheme):
    page = open_page(width, scheme)
    expect(page.locator("#chosen button")).to_have_count(4)
    assert _overflow(page) == 0
    page.locator(".examples button").nth(2).click()
    _cards(page)
    assert _overflow(page) == 0
    page.locator("#share").click()
    expect(page.locator("#link")).to_be_visible()
    assert _overflow(page) == 0
    for selector in ("h1", ".about", "#question", "#go", ".card .answer", ".card .verdict", ".facts dt", "#status"):
        assert _contrast(page, selector) >= 4.5, selector
    light = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert light == (scheme == "light")


def _contrast(page: Page, selector: str) -> float:
    """The contrast of a text with what is behind it, as WCAG counts it."""
    ink, paper = page.evaluate(
        """(selector) => {
          let here = document.querySelector(selector);
          const ink = getComputedStyle(here).color;
          while (getComputedStyle(here).backgroundColor === "rgba(0, 0, 0, 0)") here = here.parentElement;
          return [ink, getComputedStyle(here).backgroundColor];
        }""",
        selector,
    )
    low, high = sorted(_luminance(colour) for colour in (ink, paper))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    values = [int(v) / 255 for v in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_broken_picture_is_told_in_a_line_and_nothing_is_lost(open_page):
    page = open_page(expects=("400",))
    page.locator("#question").fill("what is this?")
    page.locator("#file").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.locator("#picture-note.bad")).to_contain_text("is not a picture that can be read")
    page.locator("#file").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"words"})
    expect(page.locator("#picture-note.bad")).to_have_text("'a.txt' is not a picture.")
    page.locator("#go").click()
    expect(page.locator("#error")).to_have_text("Choose a picture first.")
    expect(page.locator("#file")).to_be_focused()
    expect(page.locator("#question")).to_have_value("what is this?")


def test_a_method_that_fails_says_so_in_its_card(open_page):
    page = open_page()
    _choose(page, "fastv@99:9", "uniform")
    page.locator(".examples button").first.click()
    cards = _cards(page)
    assert "99" in cards.nth(1).locator(".wrong").inner_text()
    assert cards.nth(2).locator(".answer").inner_text() != ""


def test_a_server_that_is_busy_or_gone_loses_nothing_that_was_typed(open_page):
    page = open_page(expects=("429", "ERR_"))
    expect(page.locator("#chosen button")).to_have_count(4)
    page.locator("#file").set_input_files(_png(Image.new("RGB", (50, 50), "red")))
    page.locator("#question").fill("what is this?")
    busy = {"status": 429, "json": {"error": {"message": "the queue is full."}}}
    page.route("**/page/compare", lambda route: route.fulfill(**busy))
    page.locator("#go").click()
    expect(page.locator("#error")).to_have_text("the queue is full.")
    page.unroute("**/page/compare")
    page.route("**/page/compare", lambda route: route.abort())
    page.locator("#go").click()
    expect(page.locator("#error")).to_contain_text("The server does not answer. What you wrote is still here")
    expect(page.locator("#question")).to_have_value("what is this?")
    page.unroute("**/page/compare")
    page.locator("#go").click()
    assert _cards(page).count() == 5


def test_escape_stops_a_question(open_page):
    page = open_page(expects=("ERR_",))
    page.route("**/page/compare", lambda route: None)  # a server that takes its time
    page.locator(".examples button").first.click()
    expect(page.locator("#stop")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#stop")).to_be_hidden()
    expect(page.locator("#status")).to_have_text("Stopped.")
    expect(page.locator("#question")).not_to_have_value("")


def test_a_server_with_keys_is_given_one(open_page, guarded):
    page = open_page(url=guarded.url, expects=("401",))
    expect(page.locator("#error")).to_have_text("This server needs an API key.")
    page.get_by_label("API key").fill("a-wrong-one")
    page.get_by_label("API key").press("Tab")
    expect(page.locator("#error")).to_have_text("The server does not know this API key.")
    page.get_by_label("API key").fill("a-key-of-the-page")
    page.get_by_label("API key").press("Tab")
    expect(page.locator("#chosen button")).to_have_count(4)
    expect(page.locator("#entry")).to_be_hidden()
    assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [1, 0, ""]
    page.locator("#file").set_input_files({"name": "b.png", "mimeType": "image/png", "buffer": bytes(800_000)})
    expect(page.locator("#picture-note.bad")).to_have_text("'b.png' is too large: at most 0.75 MB are taken.")
    page.locator(".examples button").first.click()
    assert "at most" in _cards(page).first.locator(".wrong").inner_text()
