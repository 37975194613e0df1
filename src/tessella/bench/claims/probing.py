"""What a model itself is asked, as no ledger holds it: its abilities, the regions it keeps, the attention it pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...app.prompting import prepare
from ...core.errors import TessellaError
from ...engine.apply import reduce
from ...instruments.answer_attention import AnswerAttention
from ...instruments.dominance import dominance_index, layer_groups
from ...mini.questions import sample
from ...models.adapter import find_adapter
from ...models.placing import layout_of
from ..embedded import Embedded
from ..records import FULL
from ..regions import BATCH, measure_thirds
from ..statistics import Question
from .claim import Claim
from .conditions import LARGE_PICTURES, TILES, TextDominates
from .evidence import Source

Values = dict[str, dict[Question, Any]]
Measure = Callable[[Any, Any, str, Sequence[Question]], Mapping[Question, Any]]


def read_abilities(model: Any, processor: Any) -> frozenset[str]:
    """Words of `conditions.ABILITIES` that hold for a model and for what its processor makes of a drawn picture."""
    adapter = find_adapter(model)
    inputs = _inputs(model, processor, [(Embedded().kinds[0], 0)])
    out = set(adapter.capabilities)
    layout = layout_of(adapter, inputs)
    if layout is not None and len(layout.blocks[0]) > 1:
        out.add(TILES)
    if "several_grids" in out and adapter.pictures(inputs)[0].shape[-1] > adapter.native_size()[1]:
        out.add(LARGE_PICTURES)
    return frozenset(out)


@torch.inference_mode()
def measure_dominance(
    model: Any, processor: Any, pipeline: str, questions: Sequence[Question]
) -> dict[Question, float]:
    """For each question the attention of the answer's tokens on a text token over that on a visual one.

    It is the mean over the layers that `tessella diagnose` reads. A question whose answer is empty is left out. Raises
    what `tessella.reduce` raises.
    """
    groups = layer_groups(find_adapter(model).info.num_layers)
    layers = tuple(sorted({n for some in groups.values() for n in some}))
    out: dict[Question, float] = {}
    with reduce(model, pipeline, processor=processor) as run:
        for start in range(0, len(questions), BATCH):
            batch = questions[start : start + BATCH]
            inputs = _inputs(model, processor, batch)
            with AnswerAttention(model, layers) as watch:
                answers = model.generate(**inputs, max_new_tokens=Embedded.max_new_tokens, do_sample=False, num_beams=1)
            seen = watch.masses(inputs, answers, run.layout)
            index = dominance_index(seen.text, seen.visual, seen.num_text, seen.num_visual).mean(axis=1)
            out |= {q: float(i) for q, i, there in zip(batch, index, seen.has_rows, strict=True) if there}
    return out


MEASURES: dict[Source, Measure] = {"thirds": measure_thirds, "dominance": measure_dominance}


@dataclass(frozen=True)
class Probed:
    """Values by source, pipeline and question, and a note for each pipeline that cannot run."""

    values: dict[Source, Values]
    problems: tuple[str, ...]


def probe(stated: Sequence[Claim], model: Any, processor: Any) -> Probed:
    """What the claims need beside records, measured on the questions of each."""
    values: dict[Source, Values] = {source: {} for source in MEASURES}
    problems: dict[str, None] = {}
    for claim in stated:
        if claim.metric.source not in MEASURES:
            continue
        known = values[claim.metric.source]
        for pipeline in _wanted(claim):
            if set(claim.questions) <= set(known.get(pipeline, {})):
                continue
            try:
                measured = MEASURES[claim.metric.source](model, processor, pipeline, claim.questions)
            except TessellaError as error:
                problems[f"{claim.id}: {pipeline} cannot run: {error}"] = None
            else:
                known.setdefault(pipeline, {}).update(measured)
    return Probed(values, tuple(problems))


def _wanted(claim: Claim) -> tuple[str, ...]:
    """Pipelines whose values a claim is decided on, its conditions included."""
    full = any(isinstance(p, TextDominates) for p in claim.preconditions)
    return tuple(dict.fromkeys([*claim.pipelines, *([FULL] if full else [])]))


def _inputs(model: Any, processor: Any, questions: Sequence[Question]) -> Any:
    samples = [sample(kind, number, Embedded.split) for kind, number in questions]
    return prepare(
        model, processor, [[s.image] for s in samples], [s.question for s in samples], Embedded.max_new_tokens
    )
