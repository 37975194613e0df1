"""Take the pictures of the page that the docs show: python tests/serve/page/capture.py (needs Chromium)."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

TESTS = Path(__file__).parents[2]
sys.path[:0] = [str(TESTS), str(TESTS / "serve")]

from real_server import RealServer  # noqa: E402

from chromium import PATH  # noqa: E402

FOLDER = TESTS.parent / "docs" / "images"
EXAMPLE = 1  # how many red objects there are: fewer tokens change some answers


def main() -> None:
    with RealServer() as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PATH, args=["--no-sandbox", "--disable-gpu"])
        page = _ask(browser, server.url, 1280, 900)
        _save(Image.open(io.BytesIO(page.screenshot(full_page=True))), "page_desktop.png")
        page = _ask(browser, server.url, 360, 1300)
        top = Image.open(io.BytesIO(page.screenshot()))
        page.locator("#results").evaluate("element => element.scrollIntoView()")
        _save(_side_by_side(top, Image.open(io.BytesIO(page.screenshot()))), "page_phone.png")
        browser.close()


def _ask(browser: Browser, url: str, width: int, height: int) -> Page:
    """The page with an example's answers; asked twice, so that times are those of a model that is warm."""
    page = browser.new_page(viewport={"width": width, "height": height}, reduced_motion="reduce")
    page.goto(url)
    page.locator("#chosen button").nth(3).wait_for()
    for number in (EXAMPLE + 1, EXAMPLE):
        example = page.locator(".examples button").nth(number)
        example.click()
        page.locator("#asked").get_by_text(example.get_attribute("title") or "").wait_for()
        page.get_by_text("Every answer is complete.").wait_for()
    page.locator("h1").click()  # away from the example
    page.evaluate("scrollTo(0, 0)")
    return page


def _side_by_side(left: Image.Image, right: Image.Image) -> Image.Image:
    out = Image.new("RGB", (left.width + right.width + 24, left.height), (176, 180, 190))
    out.paste(left, (0, 0))
    out.paste(right, (left.width + 24, 0))
    return out


def _save(image: Image.Image, name: str) -> None:
    image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(FOLDER / name, optimize=True)


if __name__ == "__main__":
    main()
