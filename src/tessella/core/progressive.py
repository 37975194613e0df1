"""Scorers that cut at several layers, each time to a share of what there was at first."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from .budget import Budget, Counts
from .contracts import Expect, Scorer, Step, keep_highest
from .errors import BudgetError, MethodError, UnsupportedError
from .layout import Layout
from .model_info import ModelInfo
from .reduction import Reduction
from .view import Captures, View


@dataclass(frozen=True)
class Progressive(Scorer):
    """A scorer that cuts in front of several decoder layers; `view.at_layer` tells `score` at which.

    After cut i a share `ratios[i]` of the tokens in front of the first cut is left, `int(n * ratio)` of them: that is
    what happens without a keep. A keep is what the last cut leaves; the other ratios are then scaled as the last one
    is, up to everything.
    """

    layers: tuple[int, ...] = ()  # decoder layers in front of which it cuts
    ratios: tuple[float, ...] | None = None  # left after each cut; None: the paper's

    paper_ratios: ClassVar[tuple[float, ...]]

    def __post_init__(self) -> None:
        for name, given in (("layers", self.layers), ("ratios", self.ratios)):
            if given is not None and not isinstance(given, tuple):
                raise MethodError(f"{self.id}: {name} must be a tuple of numbers; got {given!r}.")
        if not self.layers or list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 1:
            raise MethodError(f"{self.id}: layers must ascend, from 1 on; got {tuple(map(int, self.layers))}.")
        if self.ratios is None:
            return
        if len(self.ratios) != len(self.layers):
            raise MethodError(
                f"{self.id}: ratios are one number for each of the {len(self.layers)} layers "
                f"{tuple(map(int, self.layers))}; got {self.ratios}."
            )
        if not all(0 <= r <= 1 for r in self.ratios) or list(self.ratios) != sorted(self.ratios, reverse=True):
            raise MethodError(f"{self.id}: ratios lie in [0, 1] and do not grow with depth; got {self.ratios}.")

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """One cut in front of each layer. Raises BudgetError where a keep and ratios are given, or too few ratios."""
        if budget is not None and self.ratios is not None:
            raise BudgetError(f"{self.id}: ratios={self.ratios} fix what is kept; leave out the keep of {budget}.")
        if self.ratios is None and len(self.layers) != len(self.paper_ratios):
            raise BudgetError(
                f"{self.id}: give ratios and no keep, one for each of the {len(self.layers)} layers "
                f"{tuple(map(int, self.layers))}; the paper's {self.paper_ratios} are for {len(self.paper_ratios)}."
            )
        out = []
        for number, layer in enumerate(map(int, self.layers)):
            is_last = number == len(self.layers) - 1
            out.append(
                Step(
                    self,
                    "prefill",
                    layer,
                    budget,
                    self.reduce,
                    self.captures_at(layer),
                    self.observes(info) if number == 0 else (),
                    count="exact" if is_last and budget is not None else "adaptive",
                    of_first=number > 0,
                    expect=None if is_last else self._expectation(number),
                )
            )
        return tuple(out)

    def captures_at(self, layer: int) -> Captures:
        """What the engine must record for the cut in front of a layer; by default nothing."""
        return Captures()

    def decide(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Reduction:
        counts = self.counts_at(view.at_layer, counts)
        keep = keep_highest(scores, counts, mask=view.mask, protected=self.protect(view))
        return Reduction(keep, counts.num_keep)

    def counts_at(self, layer: int, counts: Counts) -> Counts:
        """What the cut in front of a layer leaves, where `counts` are those of the last one."""
        number = self._number_of(layer)
        planned = zip(self.left_after(number, counts), counts.num_tokens, strict=True)
        kept = tuple(min(k, n) for k, n in planned)  # earlier cuts may have left fewer than they were allowed
        return Counts(kept, counts.num_tokens, counts.asked, counts.num_first)

    def left_after(self, number: int, counts: Counts) -> tuple[int, ...]:
        """Tokens of each item behind cut `number`, 0 the first, where `counts` are those of the last one."""
        ratios = self.paper_ratios if self.ratios is None else self.ratios
        there = counts.originally
        if not counts.asked:
            least = self.card.min_keep
            return tuple(max(int(n * ratios[number]), min(least, n)) for n in there)  # authors' rounding, in floats
        return tuple(
            min(scaled(k, n, ratios[number], ratios[-1]), n) for k, n in zip(counts.num_keep, there, strict=True)
        )

    def _number_of(self, layer: int) -> int:
        layers = tuple(map(int, self.layers))
        if layer not in layers:
            raise UnsupportedError(f"{self.id} cuts in front of layers {layers}, not of layer {layer}.")
        return layers.index(layer)

    def _expectation(self, number: int) -> Expect:
        def expect(counts: Counts, layout: Layout) -> float:
            return float(sum(self.left_after(number, counts)))

        return expect


@dataclass(frozen=True)
class AskedAhead(Progressive):
    """Ranks tokens by what the last one of the prompt attends to in the layer that is about to run."""

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """Mean over heads of the attention from the last position to each visual token."""
        return view.attention_rows(view.at_layer, queries="last", softmax="all")[:, :, 0].mean(dim=1)


def scaled(last: int, first: int, ratio: float, last_ratio: float) -> int:
    """Tokens that a cut of `ratio` leaves of `first` ones, if the last cut, of `last_ratio`, is to leave `last`.

    >>> scaled(72, 576, 0.5, 0.125), scaled(36, 576, 0.5, 0.125), scaled(12, 100, 0.5, 0.125)
    (288, 144, 50)
    """
    if int(first * last_ratio) == last:  # as the ratios have it
        return int(first * ratio)
    return int(last * Fraction(repr(float(ratio))) / Fraction(repr(float(last_ratio))))
