"""Which methods the page offers, those that the model can carry first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...app.answering import FULL
from ...app.catalogue import method_rows
from ...core.pipeline import example_of
from .requests import MAX_METHODS

STARTERS = ("visionzip", "hiprune", "divprune", "pyramiddrop")  # one that merges and one that cuts in steps among them


def method_choices(reasons: Mapping[str, str]) -> list[dict[str, str]]:
    """Each method's pipeline, what it is in words, and why the model cannot carry it, empty where it can.

    `reasons` are those of the model by method; a method that is not among them can be carried.
    """
    out = [
        {
            "pipeline": str(example_of(row["id"])),
            "about": _about(row),
            "reason": reasons.get(row["id"], ""),
        }
        for row in method_rows()
        if row["id"] != FULL
    ]
    return sorted(out, key=lambda choice: bool(choice["reason"]))


def starters(choices: list[dict[str, str]]) -> list[str]:
    """The pipelines that are chosen to begin with: methods unlike each other that the model can carry."""
    able = [choice["pipeline"] for choice in choices if not choice["reason"]]
    first = [pipeline for pipeline in STARTERS if pipeline in able]
    return [*first, *(pipeline for pipeline in able if pipeline not in first)][:MAX_METHODS]


def _about(row: Mapping[str, Any]) -> str:
    """'PyramidDrop, 2024: prefill'."""
    year = f", {row['year']}" if row["year"] else ""
    kind = "" if row["training_free"] else ", trained"
    return f"{row['title']}{year}: {' and '.join(row['stages'])}{kind}"
