"""GlobalCom2: the thumbnail says how much each tile may keep, and has a say in what.

Paper    Liu et al., AAAI 2026, arXiv:2501.05179
Acts     connector, once, on a thumbnail and the tiles of a mosaic; newlines all stay
Needs    what the class token of each tile makes of its patches in the last encoder layer, before the softmax, and the
         places of the tiles
Differs  a keep of k, ours, sets the retention R so that k tokens stay: shares are rounded by largest remainder, and
         what a tile cannot hold goes to the others. Without a keep it is the authors' R with their rounding. Tokens
         stand where they were, where the authors' code is off by what was cut from the padding. Those of the thumbnail
         stand in their own order, under `thumb_order="score"` by score as in the authors' code. A tile that lies in the
         padding takes its share of attention, as there, and keeps nothing. Newlines of lines in the padding, which the
         authors' sequence has, are none of the model's. Grids without a place (single pictures, frames, tiles of
         encoders that do not say where they lie) keep R of their tokens by their own scores. R = 1 keeps everything.
         `cls_fallback="received"`, ours: attention received in the same layer, where there is no class token
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import Allocation, Allocator, ScoredSelector, mask_of
from ..core.errors import MethodError
from ..core.model_info import ModelInfo
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.allocation import divide_count, picks_by_quota, sums_by_group
from ..ops.mosaics import Places, places_of
from ..ops.selection import pad_indices

RATIO = 0.25  # R


@register
@dataclass(frozen=True)
class GlobalCom2(ScoredSelector, Allocator):
    ratio: float | None = None  # R, where no keep is given; None: 0.25
    temperature: float = 10.0  # tau, of the softmax over tiles
    thumb_order: str = "spatial"  # or "score": the order of the thumbnail's tokens
    cls_fallback: str | None = None  # "received": mean attention received where there is no class token

    card = Card(
        title="GlobalCom2",
        paper="2501.05179",
        year=2025,
        stages=("connector",),
        needs=("class_token", "encoder_keys", "grid"),
        count="adaptive",
        count_reason="int(R N) of the thumbnail and int(R' N) of each tile; with a keep the count is exact",
        exact_with_keep=True,
        unit="image",
        newlines="keep",
        nearest="hiprune",
    )

    def __post_init__(self) -> None:
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise MethodError(f"globalcom2: ratio is a share in (0, 1]; got {self.ratio}.")
        if not self.temperature > 0:
            raise MethodError(f"globalcom2: temperature must be > 0; got {self.temperature}.")
        if self.thumb_order not in ("spatial", "score"):
            raise MethodError(f"globalcom2: thumb_order must be 'spatial' or 'score'; got {self.thumb_order!r}.")
        if self.cls_fallback not in (None, "received"):
            raise MethodError(f"globalcom2: cls_fallback must be None or 'received'; got {self.cls_fallback!r}.")

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return ("attention_received", "grid") if self.falls_back(info) else self.card.needs

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=(info.num_encoder_layers - 1,))

    def remarks(self, info: ModelInfo) -> tuple[str, ...]:
        return ("attention received stands in for the class token",) if self.falls_back(info) else ()

    def falls_back(self, info: ModelInfo) -> bool:
        """Whether attention received takes the place of the class token's logits."""
        return not info.has_class_token and self.cls_fallback == "received"

    def reduce(self, view: View, counts: Counts) -> Reduction:
        with view.clock("select"):
            picks = self.select(view, counts)
        keep = mask_of(picks, view.mask.shape[1])
        order = sequence(picks, places_of(view.layout, view.device)) if self.thumb_order == "score" else None
        return Reduction(keep, counts.num_keep if counts.asked else None, order=order)

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """Logits of the thumbnail's tokens; for those of tiles, logits and guidance, each of length one in a tile."""
        layer, places = view.info.num_encoder_layers - 1, places_of(view.layout, view.device)
        own = view.attention_received(layer) if self.falls_back(view.info) else view.class_logits(layer)
        own = own.float().masked_fill(~view.mask, 0.0)
        return torch.where(places.is_placed, scaled(own, places) + scaled(guidance(own, places), places), own)

    def choose(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """Grid by grid, highest first."""
        allocation = self.allocate(scores, view, counts)
        most = counts.most if counts.asked else view.mask.shape[1]
        return picks_by_quota(scores, allocation.group, allocation.quota, view.mask, most)

    def allocate(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Allocation:
        """Grids, and shares of tiles by the scores of the thumbnail. Raises MethodError for a keep beside a ratio."""
        places = places_of(view.layout, view.device)
        factor = tile_factors(scores, places, self.temperature).gather(1, places.cell.clamp(min=0))
        factor = torch.where(places.cell >= 0, factor, 1.0)
        if not counts.asked:
            return Allocation(places.group, self._by_ratio(factor, view, places))
        if self.ratio is not None:
            raise MethodError(f"globalcom2: ratio={self.ratio} fixes what is kept, so it takes no keep. Leave one out.")
        return Allocation(places.group, divide_count(factor * places.sizes, counts.num_keep, places.sizes))

    def _by_ratio(self, factor: Float[Tensor, "B G"], view: View, places: Places) -> Int[Tensor, "B G"]:
        """The authors' counts of each grid."""
        ratio = RATIO if self.ratio is None else self.ratio
        if ratio == 1:
            return places.sizes
        grids = [[max(1, int(b.num_tokens * ratio)) for b in blocks] for blocks in view.layout.blocks]
        alone = pad_indices(grids, factor.device).clamp(min=0)
        tiles = (places.sizes * retention(factor, ratio)).long()
        return torch.where(places.cell >= 0, tiles, alone)


def tile_factors(scores: Float[Tensor, "B V"], places: Places, temperature: float) -> Float[Tensor, "B N"]:
    """By how much each cell's retention is above or below R: 1 + sigma - mean(sigma); 1 everywhere without a mosaic.

    sigma is the softmax over the cells of the scores that the thumbnail has in each, summed, over the temperature.
    """
    num_cells = places.num_cells
    most = max(1, places.most_cells)
    sums = sums_by_group(scores, places.shown, most)
    real = torch.arange(most, device=scores.device) < num_cells
    lifted = sums.masked_fill(~real, -torch.inf)
    lifted = lifted - lifted.amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).min)
    weight = (lifted / temperature).exp()
    sigma = weight / (weight.sum(dim=1, keepdim=True) + 1e-8)
    return 1 + sigma - sigma.sum(dim=1, keepdim=True) / num_cells.clamp(min=1)


def retention(factor: Float[Tensor, "B N"], ratio: float) -> Float[Tensor, "B N"]:
    """The share of its tokens that a tile may keep, at most all."""
    return (ratio * factor).clamp(max=1)


def guidance(scores: Float[Tensor, "B V"], places: Places) -> Float[Tensor, "B V"]:
    """The thumbnail's scores, interpolated to what is left of the mosaic; zero for tokens without a place."""
    if places.thumbnail.numel() == 0:
        return torch.zeros_like(scores)
    maps = scores.gather(1, places.thumbnail.clamp(min=0).flatten(1)).view(places.thumbnail.shape)
    at = places.at[:, None].to(maps.dtype)
    found = torch.nn.functional.grid_sample(maps[:, None], at, padding_mode="border", align_corners=False)
    return found[:, 0, 0].masked_fill(~places.is_placed, 0.0)


def scaled(values: Float[Tensor, "B V"], places: Places) -> Float[Tensor, "B V"]:
    """Values over the length of the vector that those of their grid are."""
    length = sums_by_group(values.square(), places.group, places.sizes.shape[1]).sqrt().clamp(min=1e-12)
    return values / length.gather(1, places.group.clamp(min=0))


def sequence(picks: Int[Tensor, "B K"], places: Places) -> Int[Tensor, "B K"]:
    """Picks in the authors' order: those of grids without a place as they were picked, then tiles as they stand."""
    here = torch.arange(picks.shape[1], device=picks.device)
    placed = places.is_placed.gather(1, picks.clamp(min=0))
    key = torch.where(placed, picks.shape[1] + picks, here).masked_fill(picks < 0, 2**62)
    return picks.gather(1, torch.sort(key, dim=1, stable=True).indices)
