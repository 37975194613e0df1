"""What the YAML files of the tasks name: pictures, questions and scores of a row. Copied beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

FOLDER = Path(__file__).parent


def seen(doc: dict[str, Any]) -> list[Any]:
    """The picture of a row, or the path of its clip."""
    file = FOLDER / doc["file"]
    return [str(file)] if file.suffix == ".mp4" else [Image.open(file)]


def question(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> str:
    return str(doc["question"])


def score(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Exact match."""
    return {"accuracy": float(results[0] == doc["answer"])}
