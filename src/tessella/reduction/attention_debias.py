"""Attention debiasing: divide a scorer's attention by its trend along the raster, and zero what lies on padding.

Paper    Zhao et al., 2025, arXiv:2508.17807
Acts     where its scorer does, on the scores, in front of its selection
Needs    what its scorer needs; the pixels, where padding is masked
Differs  no curve is shipped, for one belongs to a model, a layer and a scorer, and the authors' belong to benchmarks:
         `tessella calibrate attention_debias` fits one, and without `coefficients` the method is refused. Their files
         are the form `table`. A picture of another number of tokens than `length` reads the curve at its relative
         place, each tile or frame by itself; newlines are left as they are. Padding is read off the pixels: lines at
         the border of a picture of one grid that show the mean colour alone, to within three pixels of what its size
         says; a model that does not pad has none. Of k tokens, those on padding are left out and not replaced, but for
         protected ones; a scorer that merges gets the masked scores and no more; an item on nothing but padding is not
         masked. SparseVLM's own mask, resized from pixels, is the same rule with the threshold 0.5 here
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core.budget import Budget, Counts
from ..core.cards import Card
from ..core.contracts import Corrector, Scorer, Step
from ..core.errors import MethodError
from ..core.layout import Layout
from ..core.model_info import ModelInfo
from ..core.reduction import Reduction
from ..core.registry import make, register
from ..core.view import View
from ..ops.trends import SIZES, falling_weights, raster_share, read_curve, trend

FORMS: Final = ("exp", "cubic", "table", "none")
CUTS: Final = ("first", "all")


def fastv() -> Scorer:
    """The paper's first host."""
    scorer = make("fastv")
    assert isinstance(scorer, Scorer)
    return scorer


@register
@dataclass(frozen=True)
class AttentionDebias(Corrector):
    scorer: Scorer = field(default_factory=fastv)  # whose scores, s >= 0
    form: str = "exp"  # of the trend f: exp(b i), 1 + c1 i + c2 i^2 + c3 i^3, a table of w = f(0) / f(i), or none
    coefficients: tuple[float, ...] = ()  # b; c1, c2, c3; w; several curves, one for each cut, one behind the other
    length: int = 576  # positions i over which a curve was fitted
    pad_threshold: float | None = 0.5  # a token more padded than that is masked; None: no mask
    cuts: str = "first"  # which cuts of a scorer with several are corrected, "first" or "all"

    card = Card(
        title="Attention debiasing",
        paper="2508.17807",
        year=2025,
        stages=("connector", "prefill"),
        needs=("pixels",),
        count="at_most",
        count_reason="of the tokens chosen, those on padding are left out and not replaced",
        prompt_dependent=True,
        example="attention_debias(scorer=fastv, coefficients=(0.003,))",
    )

    def __post_init__(self) -> None:
        if not isinstance(self.scorer, Scorer):
            given = getattr(self.scorer, "id", repr(self.scorer))
            raise MethodError(f"attention_debias: scorer takes a method that scores tokens; {given} does not.")
        for name, given, allowed in (("form", self.form, FORMS), ("cuts", self.cuts, CUTS)):
            if given not in allowed:
                raise MethodError(f"attention_debias: {name} must be one of {', '.join(allowed)}; got {given!r}.")
        if self.length < 1:
            raise MethodError(f"attention_debias: length must be >= 1; got {self.length}.")
        if self.pad_threshold is not None and not 0 <= self.pad_threshold < 1:
            raise MethodError(
                f"attention_debias: pad_threshold is None or a share in [0, 1); got {self.pad_threshold}."
            )
        self._check_coefficients()
        object.__setattr__(self, "card", self._card())  # of its scorer

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        pixels = () if self.pad_threshold is None else ("pixels",)
        return tuple(dict.fromkeys((*self.scorer.needs(info), *pixels)))

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """Those of the scorer, each corrected cut with its own curve. Raises MethodError without a fitted curve."""
        if self.form != "none" and not self.coefficients:
            raise MethodError(
                "attention_debias has no curve of its own: fit one with 'tessella calibrate attention_debias', give "
                "coefficients, or take form='none' for the padding alone."
            )
        steps = self.scorer.steps(info, budget)
        corrected = self.corrected(steps)
        curves = dict(zip(corrected, self._curves(len(corrected)), strict=True))
        masked, out = False, []
        for number, step in enumerate(steps):
            masked = masked or (number in curves and self.pad_threshold is not None)
            count = "at_most" if masked and step.promised_count == "exact" else step.promised_count
            reduce = curves[number].reduce if number in curves else step.reduce
            out.append(dataclasses.replace(step, method=self, reduce=reduce, count=count))
        return tuple(out)

    def corrected(self, steps: Sequence[Step]) -> list[int]:
        """Which of its scorer's steps are corrected: the first that goes by the score, or all that do."""
        scored = [number for number, step in enumerate(steps) if step.reduce == self.scorer.reduce]
        return scored if self.cuts == "all" else scored[:1]

    def correct(self, scores: Float[Tensor, "B V"], view: View) -> Float[Tensor, "B V"]:
        """s w m: the scores over their trend, relative to the first position's, and zero on padding."""
        return scores.float() * self.weights(view.layout).to(view.device, non_blocking=True) * self.valid(view)

    def decide(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Reduction:
        if self.pad_threshold is None:
            return self.scorer.decide(scores, view, counts)
        stays = self.valid(view)
        reduction = self.scorer.decide(torch.where(stays, scores, -1), view, counts)  # behind scores of exactly 0 too
        if reduction.embeddings is not None or reduction.order is not None:
            return reduction
        protected = self.scorer.protect(view)
        stays = stays if protected is None else stays | protected
        return dataclasses.replace(reduction, keep=reduction.keep & stays, num_kept=None)

    def valid(self, view: View) -> Bool[Tensor, "B V"]:
        """m: tokens of which no more than the threshold is padding; all of an item that has none."""
        if self.pad_threshold is None:
            return view.mask
        valid = view.mask & (view.padding() <= self.pad_threshold)
        return torch.where(valid.any(dim=1, keepdim=True), valid, view.mask)

    def weights(self, layout: Layout) -> Float[Tensor, "B V"]:
        """w of each token by its place in the raster of its own grid, on the host; 1 for tokens of no grid."""
        if self.form == "none":
            return torch.ones(layout.slot.shape)
        share = raster_share(layout)
        return torch.where(share < 0, 1, read_curve(self.curve(), share.clamp(min=0))).float()

    def curve(self) -> Float[Tensor, " N"]:
        """w at each of `length` positions, in float64."""
        if self.form == "table":
            return torch.tensor(self.coefficients[: self.length], dtype=torch.float64)
        return falling_weights(self.form, self.coefficients, self.length)

    def _curves(self, cuts: int) -> list[AttentionDebias]:
        """This method for each of several cuts, with the curve of that cut alone."""
        size = self._size
        if not size or len(self.coefficients) == size:
            return [self] * cuts
        if len(self.coefficients) != size * cuts:
            raise MethodError(
                f"attention_debias: {len(self.coefficients) // size} curves for {cuts} corrected cut(s) of "
                f"{self.scorer.id}; give one, or one for each."
            )
        parts = [self.coefficients[i * size : (i + 1) * size] for i in range(cuts)]
        return [dataclasses.replace(self, coefficients=part) for part in parts]

    @property
    def _size(self) -> int:
        """Coefficients of one curve."""
        return {**SIZES, "table": self.length, "none": 0}[self.form]

    def _check_coefficients(self) -> None:
        size, given = self._size, self.coefficients
        if len(given) % size if size else given:
            raise MethodError(
                f"attention_debias: a curve of form={self.form!r} has {size} coefficient(s); got {len(given)}."
            )
        falls = self.form != "cubic" and min(given, default=0) < 0
        if falls or not all(map(math.isfinite, given)):
            allowed = "finite" if self.form == "cubic" else "finite and at least 0"
            raise MethodError(f"attention_debias: coefficients of form={self.form!r} are {allowed}; got {given}.")
        place = torch.arange(self.length, dtype=torch.float64)
        for part in (given[i : i + 3] for i in range(0, len(given), 3) if self.form == "cubic"):
            least = float(trend("cubic", part, place).min())
            if least <= 0:
                raise MethodError(
                    f"attention_debias: a trend must stay above 0 over its {self.length} positions; that of {part} "
                    f"falls to {least:.3g}."
                )

    def _card(self) -> Card:
        """What holds of its scorer, corrected."""
        mine = {name: getattr(type(self).card, name) for name in ("title", "paper", "year", "example")}
        card = dataclasses.replace(self.scorer.card, **mine, baseline=False)
        if self.pad_threshold is None:
            return card
        loose = type(self).card if card.count == "exact" else card
        return dataclasses.replace(
            card,
            needs=tuple(dict.fromkeys((*card.needs, "pixels"))),
            count=loose.count,
            count_reason=loose.count_reason,
            exact_with_keep=False,
        )
