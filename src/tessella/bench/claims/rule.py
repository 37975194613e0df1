"""The rule: from evidence to the verdict of a claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...core.errors import InputError
from ..records import FULL
from ..statistics import Bootstrap, Draws, Estimate, holm
from .claim import Claim, name_of, sides
from .evidence import Evidence, canonical

RESAMPLES = 20_000  # of which Holm's smallest tail over 20 comparisons still holds 25
LEAST_TAIL = 10  # resamples beyond each end of the widest interval
Status = Literal["shown", "not shown", "needs a larger model", "not measured"]


@dataclass(frozen=True)
class Compared:
    """One comparison of a claim: both values, their difference with its interval, and whether the claim shows here."""

    first: str
    second: str
    values: tuple[float, float]
    difference: Estimate
    shown: bool

    def to_dict(self) -> dict[str, Any]:
        names = {"first": self.first, "second": self.second, "values": list(self.values)}
        return {**names, "difference": self.difference.to_dict(), "shown": self.shown}


@dataclass(frozen=True)
class Verdict:
    """How a claim came out. `missing` are pipelines without some of the questions, `reasons` what failed."""

    claim: Claim
    status: Status
    compared: tuple[Compared, ...] = ()
    missing: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **self.claim.to_dict(),
            "status": self.status,
            "comparisons": [c.to_dict() for c in self.compared],
            "missing": list(self.missing),
            "reasons": list(self.reasons),
        }


def evaluate(claim: Claim, evidence: Evidence, seed: int = 0, resamples: int = RESAMPLES) -> Verdict:
    """The verdict of a claim by its rule. Raises InputError if `resamples` are too few for its widest interval."""
    tail = (1 - claim.level) / len(claim.comparisons) / 2 * resamples
    if tail < LEAST_TAIL:
        least = math.ceil(2 * LEAST_TAIL * len(claim.comparisons) / (1 - claim.level))
        raise InputError(f"{claim.id} needs at least {least} resamples; got {resamples}.")
    questions = claim.questions
    failed = failed_conditions(claim, evidence)
    if failed:
        return Verdict(claim, "needs a larger model", reasons=tuple(f"fails: {text}" for text in failed))
    missing = lacking(claim, evidence)
    unknown = tuple(f"not known: {p.text}" for p in claim.preconditions if p.holds(evidence, questions) is None)
    if missing or unknown:
        return Verdict(claim, "not measured", missing=missing, reasons=unknown)
    values = [claim.metric.values(evidence, p) for p in claim.pipelines]
    table = np.array([[v[q] for q in questions] for v in values])
    compared = _compare(claim, Bootstrap(table, questions, seed, resamples))
    return Verdict(claim, "shown" if all(c.shown for c in compared) else "not shown", compared)


def failed_conditions(claim: Claim, evidence: Evidence) -> tuple[str, ...]:
    """Conditions of a claim that are known not to hold."""
    return tuple(p.text for p in claim.preconditions if p.holds(evidence, claim.questions) is False)


def lacking(claim: Claim, evidence: Evidence) -> tuple[str, ...]:
    """Pipelines without some of the claim's questions; the full model first where a condition asks for its answers."""
    questions = claim.questions
    missing = [p for p in claim.pipelines if not set(questions) <= set(claim.metric.values(evidence, p))]
    if any(p.reads_full and p.holds(evidence, questions) is None for p in claim.preconditions):
        missing.insert(0, FULL)
    return tuple(dict.fromkeys(missing))


def _compare(claim: Claim, bootstrap: Bootstrap) -> tuple[Compared, ...]:
    """All comparisons of a claim, with intervals corrected over them."""
    place = {pipeline: n for n, pipeline in enumerate(claim.pipelines)}
    pairs = [
        ([place[canonical(p)] for p in sides(a)], [place[canonical(p)] for p in sides(b)]) for a, b in claim.comparisons
    ]
    sign = 1.0 if claim.direction == "more" else -1.0
    draws = [_difference(bootstrap, first, second) for first, second in pairs]
    claimed = holm([Draws(sign * d.value, sign * d.resampled) for d in draws], claim.margin, claim.level)
    out = []
    for (a, b), (first, second), draw, estimate in zip(claim.comparisons, pairs, draws, claimed, strict=True):
        low, high = sorted((sign * estimate.low, sign * estimate.high))
        values = (_mean(bootstrap, first), _mean(bootstrap, second))
        shown = estimate.side(claim.margin) == "better"
        out.append(Compared(name_of(a), name_of(b), values, Estimate(draw.value, low, high, estimate.level), shown))
    return tuple(out)


def _difference(bootstrap: Bootstrap, first: Sequence[int], second: Sequence[int]) -> Draws:
    """Draws of the difference between the means of two groups of pipelines of equal weight."""
    each = [bootstrap.difference(a, b) for a in first for b in second]
    return Draws(float(np.mean([d.value for d in each])), np.mean([d.resampled for d in each], axis=0))


def _mean(bootstrap: Bootstrap, pipelines: Sequence[int]) -> float:
    return float(np.mean([bootstrap.mean(p).value for p in pipelines]))
