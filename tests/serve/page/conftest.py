"""A second server, of the other settings that the page has to do with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from real_server import RealServer

KEY = "a-key-of-the-page"


@pytest.fixture(scope="session")
def share_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="session")
def guarded(share_dir: Path) -> Iterator[RealServer]:
    """It has a key, keeps shared results in a folder, lets nobody keep more than a quarter, and takes at most 1 MB."""
    options = ("--share-dir", str(share_dir), "--max-keep", "1/4", "--max-body-mb", "1")
    with RealServer(*options, TESSELLA_API_KEYS=KEY) as running:
        yield running
