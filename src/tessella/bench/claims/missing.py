"""What a ledger lacks before claims can be decided, as requests to the bench."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...core.errors import TessellaError
from ...engine.plan import can_apply
from ..embedded import Embedded
from ..records import FULL
from ..runner import Request
from .claim import Claim
from .evidence import Evidence
from .rule import failed_conditions, lacking


@dataclass(frozen=True)
class Missing:
    """Requests that measure what is missing, and notes on what the bench or the model cannot do."""

    requests: tuple[Request, ...]
    notes: tuple[str, ...]


def find_missing(stated: Sequence[Claim], evidence: Evidence, model: Any) -> Missing:
    """One request for each set of types, seed and number of questions. Claims whose conditions fail lack nothing."""
    groups: dict[tuple[tuple[str, ...], int, int], dict[str, None]] = {}
    notes: dict[str, None] = {}
    for claim in stated:
        if failed_conditions(claim, evidence):
            continue
        unknown = sorted(set(claim.kinds) - set(Embedded().kinds))
        if unknown:
            notes[f"{claim.id}: the bench has no questions of type {', '.join(unknown)}"] = None
            continue
        for pipeline in lacking(claim, evidence):
            if claim.metric.source != "records" and pipeline != FULL:
                continue
            refusal = _refusal(model, pipeline)
            if refusal:
                notes[f"{claim.id}: {pipeline} cannot run: {refusal}"] = None
            else:
                groups.setdefault((claim.kinds, claim.seed, claim.samples), {})[pipeline] = None
    requests = [
        Request(methods=",".join(pipelines), types=",".join(kinds), limit=samples, seed=seed, only=True)
        for (kinds, seed, samples), pipelines in groups.items()
    ]
    return Missing(tuple(requests), tuple(notes))


def _refusal(model: Any, pipeline: str) -> str:
    """Why a model cannot carry a pipeline; empty where it can."""
    try:
        verdict = can_apply(model, pipeline)
    except TessellaError as error:  # a method that this version does not know
        return str(error)
    return "" if verdict else str(verdict)
