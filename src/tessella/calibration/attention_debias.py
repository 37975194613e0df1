"""Attention debiasing: fits `coefficients` over `length` places to the scorer's mean score by place in a picture.

The method's `form` says which trend is fitted, its `cuts` at which cuts of the scorer; nothing is removed in front of
any. Tokens on padding do not count, nor do newlines. Scores are taken as multiples of an equal share of their prompt,
so that pictures of several sizes can be averaged; where all have one size this changes no curve.

The paper averages 500 captions. On the embedded model the trends of 32 samples and of 500 others, where they end, are
3% of a score apart, so 32 are asked for. Samples should be neutral: a curve that is fitted on a benchmark's own
questions knows where their answers lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.budget import Budget, Counts
from ..core.contracts import Method, Step
from ..core.errors import InputError, MethodError
from ..core.method_text import format_method
from ..core.model_info import ModelInfo
from ..core.reduction import Reduction
from ..core.view import Point, View
from ..engine.apply import reduce
from ..models.adapter import find_adapter
from ..ops.trends import SIZES, fit_trend, raster_share, trend
from ..samples import batches
from .job import Fit, Job

MIN_SAMPLES = 32

PARTS = 16  # of a picture, in which the evidence tells the mean scores

See = Callable[[int, View, Tensor], None]


@dataclass(frozen=True, eq=False)
class Onlooker(Method):
    """Shows `see` the scores at each cut that an attention_debias corrects, counted from 0, and removes nothing."""

    method: Any
    see: See

    id = "onlooker"

    def __post_init__(self) -> None:
        card = replace(
            self.method.card,
            count="adaptive",
            count_reason="it removes nothing",
            exact_with_keep=False,
            takes_keep=False,
        )
        object.__setattr__(self, "card", card)

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return self.method.needs(info)

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """The corrected cuts, and those of the scorer's steps that go by no score."""
        scorer = self.method.scorer
        steps, out = scorer.steps(info, budget), []
        corrected = self.method.corrected(steps)
        for number, step in enumerate(steps):
            if number in corrected:
                look = partial(self.look, corrected.index(number))
                out.append(replace(step, method=self, reduce=look, count=None, expect=None))
            elif step.reduce != scorer.reduce:
                out.append(replace(step, method=self))
        return tuple(out)

    def observe(self, view: View, point: Point, inputs: Tensor, outputs: Tensor) -> None:
        self.method.observe(view, point, inputs, outputs)

    def look(self, number: int, view: View, counts: Counts) -> Reduction:
        """Everything stays, once the scores of a cut were seen."""
        self.see(number, view, self.method.scorer.score(view))
        return self.reduce(view, counts)

    def reduce(self, view: View, counts: Counts) -> Reduction:
        return Reduction(view.mask, view.layout.num_tokens)


def fit(method: Any, job: Job) -> Fit:
    """Curves of the scorer, one for each corrected cut.

    Raises MethodError for a form that is not fitted, InputError where no sample has a picture or no trend fits.
    """
    if method.form not in SIZES:
        raise MethodError(
            f"attention_debias: form must be one of {', '.join(SIZES)} to be fitted; got {method.form!r}."
        )
    means = measured(method, job)
    curves: list[tuple[float, ...]] = []
    for mean in means:
        try:
            curves.append(fit_trend(method.form, mean))
        except ValueError as error:
            raise InputError(f"attention_debias: {error}; fit another form, or give more samples.") from None
    settings = {
        "form": method.form,
        "coefficients": tuple(c for curve in curves for c in curve),
        "length": len(means[0]),
    }
    steps = method.scorer.steps(find_adapter(job.model).info, None)
    cuts = zip(method.corrected(steps), means, curves, strict=True)
    evidence = [{"at_layer": steps[n].at_layer, **told(method.form, mean, curve)} for n, mean, curve in cuts]
    return Fit(settings, {"scorer": format_method(method.scorer), "samples": len(job.samples), "cuts": evidence})


def measured(method: Any, job: Job) -> list[Float[Tensor, " N"]]:
    """Mean score by place of each corrected cut, of the largest grid that was seen; NaN where no token ever stood."""
    info = find_adapter(job.model).info
    found: list[list[tuple[Tensor, Tensor]]] = [[] for _ in method.corrected(method.scorer.steps(info, None))]
    sizes = {1}

    def see(number: int, view: View, scores: Tensor) -> None:
        share, counts = raster_share(view.layout), torch.tensor(view.layout.num_tokens)
        counted = (share >= 0) & method.valid(view).cpu()
        in_shares = scores.double().cpu() * counts[:, None]
        found[number].append((share[counted], in_shares[counted]))
        sizes.update(block.rows * block.columns for blocks in view.layout.blocks for block in blocks)

    done = 0
    with torch.no_grad(), reduce(job.model, Onlooker(method, see)):
        for some, inputs in batches(job.model, job.processor, job.samples, job.batch):
            job.model(**inputs)
            done += len(some)
            job.advance(done, len(job.samples))
    if not any(len(share) for seen in found for share, _ in seen):
        raise InputError("attention_debias: none of the samples has a picture.")
    return [
        mean_by_place(torch.cat([share for share, _ in seen]), torch.cat([score for _, score in seen]), max(sizes))
        for seen in found
    ]


def mean_by_place(share: Float[Tensor, " T"], scores: Float[Tensor, " T"], length: int) -> Float[Tensor, " N"]:
    """Mean of the scores whose share of the way is nearest to each of `length` places; NaN for none.

    >>> mean_by_place(torch.tensor([0.0, 0.9, 1.0]), torch.tensor([2.0, 4.0, 6.0]), 3)
    tensor([2., nan, 5.])
    """
    place = (share * (length - 1)).round().long()
    total = torch.zeros(length, dtype=scores.dtype).index_add(0, place, scores)
    return total / torch.bincount(place, minlength=length)


def told(form: str, mean: Float[Tensor, " N"], curve: tuple[float, ...]) -> dict[str, Any]:
    """What a curve rests on: the mean scores in parts of the way, in multiples of their mean, and how well it fits."""
    fitted = trend(form, curve, torch.arange(len(mean), dtype=torch.float64))
    level = mean / mean.nanmean()
    parts = [float(part.nanmean()) for part in level.tensor_split(min(PARTS, len(level)))]
    scale = (level * fitted).nansum() / (fitted**2)[level.isfinite()].sum()
    misfit = (level - scale * fitted).pow(2).nanmean().sqrt()
    return {"mean_scores": parts, "last_over_first": float(fitted[-1]), "misfit": float(misfit)}
