"""What of a ledger can be compared: one board for each task and model, with all that is said of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ...core.errors import InputError
from ..efficiency import times_by_batch
from ..ledger_tables import PARTS
from ..lint import Finding, lint
from ..records import BLIND, FULL, Record, Setting
from ..summary import MUST_AGREE, Entry, Measured, Section, Summary, summarize
from ..tables import Table
from .commands import commands_of

Timings = Mapping[tuple[str, int], Mapping[str, Any]]

NAMES = ("task", "split", "model", "revision", "weights", "prompt", "decoding", "pictures")  # in titles, as needed


@dataclass(frozen=True)
class Line:
    """One setting of a board, read at one keep."""

    section: Section
    entry: Entry

    @property
    def measured(self) -> Measured:
        return self.entry.measured

    @cached_property
    def milliseconds(self) -> dict[str, float]:
        """Medians of a sample's time: scoring and selecting (`choose`), up to the first token, and `all`."""
        times = {part: [r.ms[part] for r in self.measured.records.values()] for part in PARTS}
        whole = {part: np.array(values) for part, values in times.items()}
        return {
            "choose": float(np.median(whole["score"] + whole["select"])),
            "first token": float(np.median(sum(whole[part] for part in PARTS if part != "decode"))),
            "all": float(np.median(sum(whole.values()))),
        }

    @property
    def is_reference(self) -> bool:
        """True for the full model and for no picture, which stand beside every keep."""
        return self.measured.method in (FULL, BLIND)


@dataclass(frozen=True)
class Board:
    """Settings that answer the same questions with the same model. `timings`: passes by setting and batch size."""

    title: str
    summary: Summary
    findings: tuple[Finding, ...]
    timings: Timings

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        """Every setting once: the references, then keep by keep from the most accurate on."""
        lines = {line.measured.setting.key: line for line in reversed(list(self._all_lines()))}
        order = {section.keep: n for n, section in enumerate(self.summary.sections)}

        def rank(line: Line) -> tuple[bool, int, float, str]:
            accuracy = line.entry.accuracy
            place = 0 if line.is_reference else order[line.section.keep]
            return not line.is_reference, place, -(accuracy.value if accuracy else -1.0), line.measured.label

        return tuple(sorted(lines.values(), key=rank))

    @property
    def settings(self) -> list[Setting]:
        return [line.measured.setting for line in self.lines]

    def times(self) -> list[Table]:
        """What the timing passes measured, a table for each batch size."""
        return times_by_batch({s.key: s for s in self.settings}, self.timings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "title": self.title,
            **self.summary.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
            "timings": [{"setting": key, "batch": size, **told} for (key, size), told in self.timings.items()],
            "commands": {line.measured.setting.key: commands_of(line.measured) for line in self.lines},
        }

    def _all_lines(self) -> Iterator[Line]:
        for section in self.summary.sections:
            yield from (Line(section, entry) for entry in section.entries)


def read_boards(
    rows: Sequence[tuple[Setting, Record]], timings: Timings | None = None, seed: int = 0, resamples: int = 2000
) -> list[Board]:
    """Boards in the order of their first records. Raises InputError for no rows, and as `summarize`."""
    if not rows:
        raise InputError("the ledger holds no records yet; there is nothing to report.")
    groups: dict[tuple[str, ...], list[tuple[Setting, Record]]] = {}
    names: dict[int, tuple[str, ...]] = {}  # of the setting objects, of which each stands in many rows
    for setting, record in rows:
        agreed = names.get(id(setting)) or names.setdefault(id(setting), _agreed(setting))
        groups.setdefault(agreed, []).append((setting, record))
    titles = _titles([group[0][0] for group in groups.values()])
    boards = []
    for title, group in zip(titles, groups.values(), strict=True):
        summary = summarize(group, seed, resamples)
        keys = {setting.key for setting in {id(s): s for s, _ in group}.values()}
        own = {(key, size): told for (key, size), told in (timings or {}).items() if key in keys}
        boards.append(Board(title, summary, lint(group, summary), own))
    return boards


def _agreed(setting: Setting) -> tuple[str, ...]:
    """The details by which settings can be compared, as text."""
    return tuple(json.dumps(setting.details.get(name), sort_keys=True) for name in MUST_AGREE)


def _titles(settings: Sequence[Setting]) -> list[str]:
    """Task and model of each board, and whatever else tells it from the others."""
    shown = [n for n in NAMES if n in ("task", "model") or len({str(s.details.get(n)) for s in settings}) > 1]
    return [", ".join(str(s.details[n])[:40] for n in shown if n in s.details) or "Bench" for s in settings]
