"""FoPru: keep the patches, or whole rows of them, that stand out in the encoder's attention among patches.

Paper    Jiang et al., November 2024, arXiv:2411.14164
Acts     connector, once
Needs    attention among patches in the layer whose output the connector reads; no class token; with `strategy="row"`
         the whole grid
Differs  the paper has no public code; this follows a serving engine that shares authors with it. The class token
         neither asks nor is asked, and shares are not renormalised. Rows: of a grid `w` wide a count of k is
         `max(1, floor(k / w))` whole rows, which for a ratio is the source's `floor(rows * ratio)`; nearest would be
         another number of them. So fewer than k tokens stay, or where k < w one row of w: the report says how many.
         Not square: rows of the grid as it is. Equal significance: the earlier token or row
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import Counts, on_device
from ..core.cards import Card
from ..core.contracts import ScoredSelector, mask_of
from ..core.errors import MethodError
from ..core.model_info import ModelInfo
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.merging import merge_by_mean
from ..ops.selection import mask_indices, top_indices

STRATEGIES = ("rank", "row")
AXES = ("auto", "received", "given")


@register
@dataclass(frozen=True)
class FoPru(ScoredSelector):
    strategy: str = "rank"  # rank: the most significant tokens; row: the most significant rows
    axis: str = "auto"  # attention received, given, or of each picture the one that varies more

    card = Card(
        title="FoPru",
        paper="2411.14164",
        year=2024,
        stages=("connector",),
        needs=("attention_received",),
        cost="heavy",
        rounding="floor",
        rounding_source="the engine keeps int(tokens x ratio)",
    )

    def __post_init__(self) -> None:
        for name, allowed in (("strategy", STRATEGIES), ("axis", AXES)):
            if getattr(self, name) not in allowed:
                raise MethodError(f"fopru: {name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}.")
        if self.strategy == "row":
            reason = "whole rows: as many as the count has room for, at least one"
            needs = (*self.card.needs, "grid")
            object.__setattr__(
                self, "card", replace(type(self).card, count="adaptive", count_reason=reason, needs=needs)
            )

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=(info.feature_layer,))

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """Significance: attention that each patch receives from the patches, or gives to them."""
        received, given = view.patch_attention(view.info.feature_layer)
        if self.axis != "auto":
            return received if self.axis == "received" else given
        return torch.where(variance(given, view.mask) > variance(received, view.mask), given, received)

    def choose(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """The highest scores, highest first; or whole rows of the highest sums, in raster order."""
        if self.strategy == "rank":
            return top_indices(scores, counts.num_keep, view.mask)
        return whole_rows(scores, view.layout.grids, counts, view.mask)


def variance(values: Float[Tensor, "B V"], mask: Bool[Tensor, "B V"]) -> Float[Tensor, "B 1"]:
    """Unbiased variance over the real tokens; 0 for one."""
    count = mask.sum(dim=1, keepdim=True)
    values = values.float().masked_fill(~mask, 0)
    apart = (values - values.sum(dim=1, keepdim=True) / count.clamp(min=1)) * mask
    return (apart**2).sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)


def whole_rows(
    scores: Float[Tensor, "B V"], grids: tuple[tuple[int, int], ...], counts: Counts, mask: Bool[Tensor, "B V"]
) -> Int[Tensor, "B K"]:
    """Tokens of the rows of highest score, as many rows as a count has room for, at least one of a count above 0."""
    columns = [c for _, c in grids]
    num_rows = [max(1, k // c) if k else 0 for k, c in zip(counts.num_keep, columns, strict=True)]
    token = torch.arange(scores.shape[1], device=scores.device)
    row = torch.where(mask, token // on_device(columns, scores.device)[:, None], -1)
    mean = merge_by_mean(scores[:, :, None], row, max(r for r, _ in grids))[:, :, 0]  # a row's sum over its width
    there = torch.arange(mean.shape[1], device=scores.device) < on_device([r for r, _ in grids], scores.device)[:, None]
    kept = mask_of(top_indices(mean, num_rows, there), mean.shape[1])
    most = max((n * c for n, c in zip(num_rows, columns, strict=True)), default=0)
    return mask_indices(kept.gather(1, row.clamp(min=0)) & mask, most)
