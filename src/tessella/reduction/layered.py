"""Layered: any method that cuts once inside the model, repeated in front of several layers on a schedule.

Paper    none of its own: the method's; schedules as PyramidDrop (arXiv:2410.17247) and AdaToken-3D have them
Acts     prefill, in front of each of `layers`
Needs    what its method needs there
Differs  a keep is what the last cut leaves; the others leave what `shape` says of their depth, counted from layer 0 to
         the last cut: `pyramid` the same fraction a layer, `linear`, `quadratic` as AdaToken-3D's n(x), `cosine` half a
         wave. `ratios` say it for each cut, as shares of the tokens in front of the first one, and then there is no
         keep; PyramidDrop's are (0.5, 0.25, 0.125). The method's own `at_layer` is not used. Everything else is as the
         method's card says
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction

from ..core.budget import Budget, Counts, round_count
from ..core.cards import Card
from ..core.contracts import Method, Schedule, Step
from ..core.errors import MethodError, UnsupportedError
from ..core.model_info import ModelInfo, PaperLayer
from ..core.registry import register
from ..core.schedules import SHAPES, left_at


@register
@dataclass(frozen=True)
class Layered(Schedule):
    method: Method  # which cuts
    layers: tuple[int, ...] = tuple(PaperLayer(n, depth=32) for n in (8, 16, 24))  # in front of which it does
    shape: str = "pyramid"  # of the way to what the last cut leaves
    ratios: tuple[float, ...] | None = None  # left after each cut; None: by the shape, from a keep

    card = Card(title="Layered", stages=("prefill",), example="layered(method=fastv)")

    def __post_init__(self) -> None:
        method, layers = self.method, tuple(map(int, self.layers))
        given = method.id if isinstance(method, Method) else repr(method)
        if not isinstance(method, Method) or not hasattr(method, "at_layer") or "prefill" not in method.card.stages:
            raise MethodError(f"layered takes a method that cuts in front of a layer of its `at_layer`; got {given}.")
        if not method.card.takes_keep:
            raise MethodError(f"layered takes a method that is told how many tokens to keep; {given} takes no keep.")
        if not layers or list(layers) != sorted(set(layers)) or layers[0] < 1:
            raise MethodError(f"layered: layers must ascend, from 1 on; got {layers}.")
        if self.shape not in SHAPES:
            raise MethodError(f"layered: shape must be one of {', '.join(SHAPES)}; got {self.shape!r}.")
        if self.ratios is not None:
            self._check_ratios(self.ratios, layers)
        object.__setattr__(self, "card", self._card())  # of its method

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """The method's cut in front of each layer. Raises UnsupportedError where it can only cut whole grids."""
        if len(self.layers) > 1 and "grid" in self.method.needs(info):
            raise UnsupportedError(f"layered: {self.method.id} needs whole grids, which its first cut takes apart.")
        return super().steps(info, budget)

    def left_after(self, number: int, counts: Counts) -> tuple[int, ...]:
        there = counts.originally
        if self.ratios is None:
            layer, last_layer = int(self.layers[number]), int(self.layers[-1])
            asked = zip(there, counts.num_keep, strict=True)
            return tuple(left_at(self.shape, layer, last_layer, n, k) for n, k in asked)
        ratio, card = Fraction(repr(float(self.ratios[number]))), self.card
        return tuple(max(round_count(n * ratio, card.rounding), min(card.min_keep, n)) for n in there)

    def _check_ratios(self, ratios: tuple[float, ...], layers: tuple[int, ...]) -> None:
        if len(ratios) != len(layers):
            raise MethodError(
                f"layered: ratios are one number for each of the {len(layers)} layers {layers}; got {ratios}."
            )
        if not all(0 < r <= 1 for r in ratios) or list(ratios) != sorted(ratios, reverse=True):
            raise MethodError(f"layered: ratios lie in (0, 1] and do not grow with depth; got {ratios}.")

    def _card(self) -> Card:
        """What holds of its method at several layers."""
        mine = {name: getattr(type(self).card, name) for name in ("title", "stages", "example")}
        card = dataclasses.replace(self.method.card, **mine, paper=None, year=None, baseline=False)
        if self.ratios is None:
            return card
        return dataclasses.replace(
            card, takes_keep=False, count="adaptive", count_reason="the ratios say what is kept", exact_with_keep=False
        )
