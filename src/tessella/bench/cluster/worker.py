"""What runs on a worker: a model of its own, the request resolved for it, and the answers to what it is given."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...app.source import Source
from ...core.errors import InputError
from .. import identity
from ..entries import Entry
from ..ledger import Item
from ..runner import Answers, Request, Work, answer, plan_work
from ..tasks import Batch


@dataclass(frozen=True)
class Plan:
    """What a worker would measure, where it runs, and the facts of its run."""

    machine: str
    process: int
    entries: tuple[Entry, ...]
    batches: tuple[Batch, ...]
    notes: tuple[str, ...]
    facts: dict[str, Any]


class BenchWorker:
    """A Ray actor; `plan` comes first. Raises the errors of core that loading and planning raise."""

    def __init__(self, source: Source, request: Request, threads: int) -> None:
        self._source, self._request, self._threads = source, request, threads
        self._work: Work | None = None

    def plan(self) -> Plan:
        """Load the model and resolve the request."""
        import torch

        torch.set_num_threads(self._threads)
        self._work = work = plan_work(*self._source.load(), self._source.name, self._request)
        facts = identity.describe_run()
        return Plan(platform.node(), os.getpid(), work.entries, work.batches, work.notes, facts)

    def answer(self, batch: Batch, items: Sequence[Item]) -> Iterator[tuple[Answers, tuple[str, ...]]]:
        """Answers of one setting after the other, each with the names of questions that have no picture."""
        assert self._work is not None, "plan() comes first"
        missing: dict[str, None] = {}
        for answers in answer(self._work, batch, items, missing):
            yield answers, tuple(missing)


def check_same(first: Plan, other: Plan) -> None:
    """Raise InputError naming what differs where two workers would not measure the same."""
    for name, mine, theirs in _differences(_facts(first), _facts(other)):
        raise InputError(
            f"workers would not measure the same: {name} is {theirs!r} on {other.machine} and {mine!r} on "
            f"{first.machine}. Install the same everywhere, or leave one out of the cluster."
        )


def _facts(plan: Plan) -> dict[str, Any]:
    return {
        "methods": [e.setting.pipeline for e in plan.entries],
        "setting": {e.setting.pipeline: e.setting.details for e in plan.entries},
        "questions": plan.batches,
    }


def _differences(mine: Any, theirs: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The innermost values that differ, each with where it stands."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in {**mine, **theirs}:
            yield from _differences(mine.get(key), theirs.get(key), f"{name} {key}".strip())
    elif mine != theirs:
        yield name, mine, theirs
