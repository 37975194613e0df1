"""Tiny files with the columns of public sets, their pictures drawn here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps what it prepares in the test's folder."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def write_set(tmp_path: Path) -> Write:
    """Writes rows to a Parquet file, pictures encoded inside as the hub has them, and returns its path."""

    def write(rows: Sequence[dict[str, Any]], name: str = "rows.parquet") -> Path:
        made = datasets.Dataset.from_list([*rows])
        made.to_parquet(tmp_path / name)
        return tmp_path / name

    return write
