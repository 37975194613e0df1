"""What the search has found, on the questions that it has not seen, beside every published method alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from ..bench.entries import Entry
from ..bench.records import FULL, Record
from ..bench.statistics import Bootstrap, Estimate
from ..core.errors import BudgetError, UnsupportedError
from ..core.pipeline import Pipeline, parse
from .asking import Asking
from .goal import Goal, Trial
from .space import Space, rivals
from .timing import ROUNDS, Latency, time_first_token

Role = Literal["full", "chosen", "front", "alone"]
ROUNDING = 1e-9  # of a mean of shares
PROMPTS = 5  # held-out questions on which time is taken


@dataclass(frozen=True)
class Row:
    """A pipeline on the held-out questions.

    `cost`: share of visual tokens on the mean over layers; `lost`: the full model's accuracy minus this one's;
    `chosen_over`: the chosen pipeline's accuracy minus this one's. Differences are paired, in shares (0.01 is a point).
    `is_rival`: it is a published method alone, as its paper has it, at the cost of the chosen pipeline.
    """

    pipeline: str
    role: Role
    cost: float
    accuracy: Estimate
    lost: Estimate | None
    chosen_over: Estimate | None
    is_rival: bool
    latency: Latency | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        nested = {name: getattr(self, name) for name in ("accuracy", "lost", "chosen_over", "latency")}
        plain = {name: None if value is None else value.to_dict() for name, value in nested.items()}
        return {
            "pipeline": self.pipeline,
            "role": self.role,
            "cost": self.cost,
            "is_rival": self.is_rival,
            **plain,
        }


@dataclass(frozen=True)
class Candidate:
    """What is asked the held-out questions, with its answers."""

    pipeline: Pipeline
    role: Role
    entry: Entry
    is_rival: bool = False
    records: tuple[Record, ...] = ()

    @property
    def cost(self) -> float:
        return float(np.mean([r.mean_keep_ratio for r in self.records]))


def judge(
    asking: Asking,
    space: Space,
    goal: Goal,
    chosen: Trial,
    front: Sequence[Trial],
    numbers: Sequence[int],
    seed: int,
    rounds: int = ROUNDS,
) -> list[Row]:
    """Rows for the full model, the chosen pipeline, the rest of the front, and published methods at the chosen cost.

    Published methods that keep more than that all the same are left out. Time is taken of all but these, and of the
    best of them.
    """
    share = goal.keep or Fraction(repr(round(chosen.cost, 4)))
    found = [trial.pipeline for trial in front if str(trial.pipeline) != str(chosen.pipeline)]
    candidates = [_candidate(asking, parse(FULL), "full"), _candidate(asking, chosen.pipeline, "chosen")]
    candidates += [_candidate(asking, pipeline, "front") for pipeline in found]
    candidates = _answered(asking, _with_rivals(asking, candidates, rivals(space, share)), numbers)
    candidates = _affordable(candidates, max(float(share) + goal.slack, chosen.cost + ROUNDING))
    rows = _compare(candidates, seed)
    timed = {row.pipeline for row in rows if row.role != "alone"} | {row.pipeline for row in best_rival(rows)}
    pipelines = [c.pipeline for c in candidates if str(c.pipeline) in timed]
    prompts = [asking.inputs(asking.task.ask([number])) for number in numbers[:PROMPTS]]
    times = time_first_token(asking.model, prompts, pipelines, rounds)
    latency = {str(pipeline): time for pipeline, time in zip(pipelines, times, strict=True)}
    return [dataclasses.replace(row, latency=latency.get(row.pipeline)) for row in rows]


def best_rival(rows: Sequence[Row]) -> list[Row]:
    """The published method that is best on the held-out questions, if there is any at this cost."""
    return sorted((row for row in rows if row.is_rival), key=lambda row: (-row.accuracy.value, row.cost))[:1]


def _candidate(asking: Asking, pipeline: Pipeline, role: Role) -> Candidate:
    return Candidate(pipeline, role, asking.entry(pipeline))


def _with_rivals(asking: Asking, candidates: list[Candidate], others: Sequence[Pipeline]) -> list[Candidate]:
    """The candidates and the published methods, each once; one that was found by the search too is marked there."""
    out = list(candidates)
    for pipeline in others:
        entry = asking.entry(pipeline)
        same = [n for n, c in enumerate(out) if c.entry.setting.details["methods"] == entry.setting.details["methods"]]
        if same:
            out[same[0]] = dataclasses.replace(out[same[0]], is_rival=True)
        else:
            out.append(Candidate(pipeline, "alone", entry, is_rival=True))
    return out


def _answered(asking: Asking, candidates: Sequence[Candidate], numbers: Sequence[int]) -> list[Candidate]:
    """Candidates with their records; each group of questions is encoded once for all.

    One whose layers cannot reach its share on the mean over layers, or that refuses these pictures, is left out.
    """
    records: dict[int, list[Record]] = {n: [] for n in range(len(candidates))}
    for asked in asking.groups(numbers):
        prepared = asking.prepare(asked, [candidates[n].entry for n in records])
        for n in [*records]:
            try:
                records[n] += asking.answers(candidates[n].entry, asked, prepared)
            except (BudgetError, UnsupportedError):
                del records[n]
    return [dataclasses.replace(candidates[n], records=tuple(mine)) for n, mine in records.items()]


def _affordable(candidates: Sequence[Candidate], limit: float) -> list[Candidate]:
    """All but published methods that cost more than a limit."""
    return [c for c in candidates if c.role != "alone" or c.cost <= limit]


def _compare(candidates: Sequence[Candidate], seed: int) -> list[Row]:
    questions = [(r.kind, r.number) for r in candidates[0].records]
    right = np.array([[bool(r.score) for r in c.records] for c in candidates])
    bootstrap = Bootstrap(right, questions, seed)
    full, chosen = 0, 1
    return [
        Row(
            pipeline=str(c.pipeline),
            role=c.role,
            cost=c.cost,
            accuracy=bootstrap.mean(me).estimate(),
            lost=None if me == full else bootstrap.difference(full, me).estimate(),
            chosen_over=None if me == chosen else bootstrap.difference(chosen, me).estimate(),
            is_rival=c.is_rival,
        )
        for me, c in enumerate(candidates)
    ]
