"""Rows of a bench with the answers written out as 0 and 1."""

from __future__ import annotations

from typing import Any

from tessella.bench.records import Record, Setting

Row = tuple[Setting, Record]
DETAILS = {"model": "mini", "task": "world 1", "positions": "original", "weights": "0123456789abcdef" * 4}


def setting(pipeline: str, **details: Any) -> Setting:
    """The setting of 'method' or 'method:keep'."""
    method, _, keep = pipeline.partition(":")
    return Setting(pipeline, method, keep or None, DETAILS | details)


def rows_of(what: str | Setting, answers: dict[str, str], tokens: int = 20, first: int = 0) -> list[Row]:
    """One row for each 0 and 1 of each type; numbers count from `first`, a blank leaves one out."""
    this = setting(what) if isinstance(what, str) else what
    out = []
    for kind, marks in answers.items():
        for number, mark in enumerate(marks):
            if mark == " ":
                continue
            ms = {"encode": 3.0, "score": 0.25, "select": 0.5, "prefill": 2.0 + number % 3, "decode": 4.0}
            given = "yes" if mark == "1" else "no"
            out.append(
                (
                    this,
                    Record(
                        this.key,
                        kind,
                        first + number,
                        given,
                        "yes",
                        float(mark == "1"),
                        200,
                        tokens,
                        tokens / 200,
                        64 * tokens,
                        ms,
                    ),
                )
            )
    return out
