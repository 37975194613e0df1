"""A page with everything on it, and a browser to look at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Browser
from wide_bench import HOSTILE, make_exhibits, wide_bench

from chromium import MISSING, PATH
from tessella.bench.report.boards import Board, read_boards
from tessella.bench.report.gallery import Gallery
from tessella.bench.report.page import report_page


@pytest.fixture(scope="session")
def board() -> Board:
    [board] = read_boards(wide_bench(), resamples=200)
    return board


@pytest.fixture(scope="session")
def page(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two boards, the second without a gallery."""
    text = report_page(
        f"Bench: {HOSTILE}", [board, board], [make_exhibits(board, 8), Gallery(left_out=f"No pictures: {HOSTILE}")]
    )
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if PATH is None:
        pytest.skip(MISSING)
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
