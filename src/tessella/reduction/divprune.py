"""DivPrune: keep the subset whose two most similar tokens are as different as possible.

Paper    Alvar et al., CVPR 2025, arXiv:2503.02175
Acts     connector, once, on the tokens as the language model will read them
Needs    nothing but those tokens
Differs  picked tokens are never candidates again (in the authors' code they are, and may be picked twice); distances in
         float32; above 4096 tokens they are computed column by column. Equal distances: the earlier token
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import Selector
from ..core.registry import register
from ..core.view import View
from ..ops import greedy
from ..ops.greedy import distance
from ..ops.similarity import normalize

STREAM_ABOVE = 4096  # tokens: the distances of more would take over 64 MiB an item


@register
@dataclass(frozen=True)
class DivPrune(Selector):
    card = Card(
        title="DivPrune",
        paper="2503.02175",
        year=2025,
        stages=("connector",),
        cost="heavy",
        unit="image",
        newlines="compete",
    )

    def select(self, view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """Greedy max-min: each pick is the token farthest from those picked before it."""
        return farthest_first(view.tokens.embeddings, counts, view.mask)


def farthest_first(
    tokens: Float[Tensor, "B V C"], counts: Counts, mask: Bool[Tensor, "B V"], stream_above: int = STREAM_ABOVE
) -> Int[Tensor, "B K"]:
    """Indices in the order taken, first the token whose nearest other token is farthest. Distance is 1 - cosine."""
    unit = normalize(tokens)
    distances = distance(unit, unit) if tokens.shape[1] <= stream_above else None
    nearest = nearest_other_streamed(unit, mask) if distances is None else nearest_other(distances, mask)
    first = nearest.masked_fill(~mask, -torch.inf).argmax(dim=1)
    return greedy.farthest_first(unit, counts.num_keep, mask, first, distances=distances)


def nearest_other(distances: Float[Tensor, "B V V"], mask: Bool[Tensor, "B V"]) -> Float[Tensor, "B V"]:
    """Distance of each token to the nearest other real token; infinite where there is none."""
    itself = torch.eye(distances.shape[1], dtype=torch.bool, device=distances.device)
    return distances.masked_fill(itself | ~mask[:, :, None], torch.inf).amin(dim=1)


def nearest_other_streamed(unit: Float[Tensor, "B V C"], mask: Bool[Tensor, "B V"]) -> Float[Tensor, "B V"]:
    """`nearest_other` from vectors of length one, a block of rows at a time."""
    out = torch.full(mask.shape, torch.inf, device=unit.device)
    rows = max(1, STREAM_ABOVE**2 // unit.shape[1])
    for start in range(0, unit.shape[1], rows):
        block = distance(unit[:, start : start + rows], unit)
        offset = torch.arange(block.shape[1], device=unit.device)
        block[:, offset, start + offset] = torch.inf
        block.masked_fill_(~mask[:, start : start + rows, None], torch.inf)
        out = torch.minimum(out, block.amin(dim=1))
    return out
