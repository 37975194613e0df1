"""What claims are decided on, and the numbers that are read from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ...core.errors import InputError, TessellaError
from ...core.pipeline import parse
from ..records import Record, Setting
from ..statistics import Question
from ..summary import check_comparable, collect

By = Mapping[str, Mapping[Question, Any]]  # canonical pipeline text, then question
Source = Literal["records", "thirds", "dominance"]


@dataclass(frozen=True)
class Evidence:
    """What claims are decided on. What is not known of the model is None.

    `scores`: of answers, in [0, 1]. `thirds`: tokens by third of the picture. `dominance`: of text, see `DOMINANCE`.
    `num_layers`: of the language model. `abilities`: those of `conditions.ABILITIES` that model and pictures have.
    """

    scores: By
    thirds: By = field(default_factory=dict)
    dominance: By = field(default_factory=dict)
    num_layers: int | None = None
    abilities: frozenset[str] | None = None


@dataclass(frozen=True)
class Metric:
    """A number for each question under a pipeline, read from `source`; a share if it is a percentage in tables."""

    name: str
    source: Source
    values: Callable[[Evidence, str], Mapping[Question, float]]
    is_share: bool = True


ACCURACY = Metric("accuracy", "records", lambda evidence, pipeline: evidence.scores.get(pipeline, {}))
TOP = Metric(
    "share of kept tokens in the top third",
    "thirds",
    lambda evidence, pipeline: {q: t.share_kept(0) for q, t in evidence.thirds.get(pipeline, {}).items()},
)
BOTTOM = Metric(
    "share of kept tokens in the bottom third",
    "thirds",
    lambda evidence, pipeline: {q: t.share_kept(2) for q, t in evidence.thirds.get(pipeline, {}).items()},
)
DOMINANCE = Metric(
    "attention of the answer on a text token over that on a visual token",
    "dominance",
    lambda evidence, pipeline: evidence.dominance.get(pipeline, {}),
    is_share=False,
)


def canonical(pipeline: str) -> str:
    """A pipeline's text as `str` writes it; unchanged where this version knows no such method."""
    try:
        return str(parse(pipeline))
    except TessellaError:
        return pipeline


def gather(
    rows: Sequence[tuple[Setting, Record]],
    needed: Collection[str] | None = None,
    *,
    thirds: By | None = None,
    dominance: By | None = None,
    num_layers: int | None = None,
    abilities: frozenset[str] | None = None,
) -> Evidence:
    """Evidence from rows on the `needed` pipelines (None: all), whether a keep stood beside a method or in its text.

    Raises InputError for rows of different models or tasks, or if one of these pipelines is there under two settings.
    """
    measured = collect(rows) if rows else []
    check_comparable([m.setting for m in measured])
    scores: dict[str, dict[Question, float]] = {}
    details: dict[str, dict[str, Any]] = {}
    for m in measured:
        name = canonical(m.setting.pipeline)
        if needed is not None and name not in needed:
            continue
        if details.setdefault(name, m.setting.details) != m.setting.details:
            raise InputError(f"{name} is there under several settings; one ledger for each is needed to judge claims.")
        scores.setdefault(name, {}).update({q: r.score for q, r in m.records.items()})
    return Evidence(scores, _by_meaning(thirds), _by_meaning(dominance), num_layers, abilities)


def _by_meaning(measured: By | None) -> By:
    return {canonical(pipeline): values for pipeline, values in (measured or {}).items()}
