"""Random: keep tokens drawn without replacement; what any method has to beat at the same count.

Paper    none: a baseline
Acts     connector, or prefill in front of decoder layer `at_layer`; once
Needs    nothing
Differs  the specification's `per` is the scope of the budget: `random:64 per tile` draws 64 in each crop, and by
         default an image's count is divided over its crops
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.budget import Counts, on_device
from ..core.cards import Card
from ..core.contracts import Selector
from ..core.errors import MethodError
from ..core.registry import register
from ..core.view import View
from ..ops.selection import top_indices


@register
@dataclass(frozen=True)
class Random(Selector):
    at_layer: int = 0  # 0: at the connector
    seed: int = 0
    stratified: bool = False  # one token in each of k equal stretches of the raster (a jittered grid)

    card = Card(title="Random", stages=("connector", "prefill"), baseline=True)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise MethodError(f"random: seed must be >= 0; got {self.seed}.")

    def select(self, view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """The tokens with the highest draws; or one drawn in each stretch."""
        draws = view.uniforms(self.seed)
        if self.stratified:
            return jittered(draws, counts)
        return top_indices(draws, counts.num_keep, view.mask)


def jittered(draws: Float[Tensor, "B V"], counts: Counts) -> Int[Tensor, "B K"]:
    """One index in each of `num_keep[b]` stretches of equal length (to within one token), ascending."""
    place = torch.arange(counts.most, device=draws.device)
    num_keep, num_tokens = (on_device(c, draws.device)[:, None] for c in (counts.num_keep, counts.num_tokens))
    start = place * num_tokens // num_keep.clamp(min=1)
    length = (place + 1) * num_tokens // num_keep.clamp(min=1) - start
    index = start + (draws[:, : counts.most] * length).long().clamp(max=length - 1)
    return torch.where(place < num_keep, index, -1)
