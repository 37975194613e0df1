"""PruMerge+: keep patches whose class attention is an outlier, and spaced ones; each takes in the patches most like it.

Paper    Shang et al., ICCV 2025, arXiv:2403.15388: LLaVA-PruMerge (`plus=False`) and PruMerge+
Acts     connector, once; merged features then pass the connector
Needs    the class token's query and all keys of the last encoder layer, and the features that the connector reads.
         Memory: one similarity and one weight of every kept with every patch, M x N float32 a picture
Differs  outliers are counted in each picture (the authors: over the flattened batch), and are at least one; a picture
         of up to `neighbours` patches merges all others. A keep of k is ours: round(k / 4) outliers, k - 1 - that many
         others, evenly spaced (`plus=False`: k - 1 outliers), and the token that sums up the rest. That one takes the
         first dropped slot, a patch chosen twice (`ratio`) the next; where nothing is dropped it does not exist. A grid
         step of 0, at which the authors' code stops, is 1. Equal values: the earlier patch. `fold` with patches that
         another method keeps has them in raster order
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import Counts, on_device
from ..core.cards import Card
from ..core.contracts import KeptMerger, mask_of
from ..core.errors import MethodError
from ..core.model_info import ModelInfo
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import Captures, View
from ..ops import attention as attending
from ..ops.merging import absorb, across, in_sequence, nearest_only, takers_of
from ..ops.quantiles import quantile
from ..ops.selection import mask_indices, pad_indices, top_indices
from ..ops.similarity import cosine_similarity


@register
@dataclass(frozen=True)
class PruMerge(KeptMerger):
    plus: bool = True  # spaced patches beside the outliers
    neighbours: int = 32  # patches that each kept one takes in
    outlier_factor: float = 1.5  # interquartile ranges above the third quartile
    grid_divisor: int = 3  # spaced patches are N / n / 3 apart, for n outliers
    ratio: float | None = None  # int(N ratio) outliers (the authors train with 1/8); None: as many as there are
    attention: str = "single"  # one head over the full width, as in the authors' code; "multihead": the encoder's own
    order: str = "authors"  # outliers by attention, spaced patches, the rest; "raster": by place

    card = Card(
        title="PruMerge+",
        paper="2403.15388",
        year=2024,
        stages=("connector",),
        needs=("class_token", "encoder_keys", "features"),
        count="adaptive",
        count_reason="outliers are counted in each picture; with a keep the count is exact",
        exact_with_keep=True,
        min_keep=2,
        cost="heavy",
        nearest="hiprune",
    )

    def __post_init__(self) -> None:
        for name, allowed in (("attention", ("single", "multihead")), ("order", ("authors", "raster"))):
            if getattr(self, name) not in allowed:
                raise MethodError(f"prumerge: {name} must be one of {allowed}; got {getattr(self, name)!r}.")
        for name, least in (("neighbours", 0), ("outlier_factor", 0), ("grid_divisor", 1)):
            if getattr(self, name) < least:
                raise MethodError(f"prumerge: {name} must be >= {least}; got {getattr(self, name)}.")
        if self.ratio is not None and not 0 < self.ratio <= 1:
            raise MethodError(f"prumerge: ratio is a share in (0, 1]; got {self.ratio}.")

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=(info.num_encoder_layers - 1,))

    def merge(self, view: View, counts: Counts) -> Reduction:
        """Centres with what they take in, and one token that sums up all that is no centre."""
        attention = self.class_row(view)
        return self.gathered(*self.centres(attention, view.mask, counts), attention, view, counts)

    def kept(self, view: View, counts: Counts) -> Bool[Tensor, "B V"]:
        """The centres."""
        return mask_of(self.centres(self.class_row(view), view.mask, counts)[0], view.mask.shape[1])

    def reserved(self, counts: Counts) -> tuple[int, ...]:
        """The token that sums up the rest, of counts that have room for it."""
        return tuple(int(k > 1) for k in counts.num_keep)

    def fold(self, kept: Bool[Tensor, "B V"], view: View, counts: Counts) -> Reduction:
        """Kept patches with what they take in, and the token for the rest; without a keep their number is read back."""
        room = [k - r for k, r in zip(counts.num_keep, self.reserved(counts), strict=True)]
        num_centres = room if counts.asked else kept.sum(dim=1).tolist()
        return self.gathered(mask_indices(kept, max(num_centres)), num_centres, self.class_row(view), view, counts)

    def gathered(
        self,
        centres: Int[Tensor, "B M"],
        num_centres: list[int],
        attention: Float[Tensor, "B V"],
        view: View,
        counts: Counts,
    ) -> Reduction:
        """Centres in their order with what they take in, and the token for the rest."""
        num_kept = self.num_kept(num_centres, counts)
        slots = slots_of(centres, view.mask, [k > m for k, m in zip(num_kept, num_centres, strict=True)])
        affinity = self.affinity(view, centres)
        features, rest = view.features(), ~mask_of(centres, view.mask.shape[1])  # padding has no attention
        tokens = absorb(features, attention, centres, affinity > -torch.inf, rest).to(features.dtype)
        column = slots if self.order == "raster" else torch.arange(slots.shape[1], device=slots.device)
        behind = torch.where(slots < 0, slots.shape[1] + view.mask.shape[1], column)
        column = torch.sort(behind, dim=1, stable=True).indices[:, : max(num_kept)]
        order = slots.gather(1, column)
        tokens = tokens.gather(1, across(column, tokens))
        keep = mask_of(order, view.mask.shape[1])
        source = torch.where(view.mask, takers_of(keep, slots, affinity), -1)
        return Reduction(keep, tuple(num_kept), tokens, "encoder", order, source)

    def class_row(self, view: View) -> Float[Tensor, "B V"]:
        """Attention of the class token to each patch in the last encoder layer; the class token takes the rest."""
        layer = view.info.num_encoder_layers - 1
        if self.attention == "multihead":
            return view.class_attention(layer).float().mean(dim=1).masked_fill(~view.mask, 0.0)
        query, own = (t.flatten(1) for t in view.class_projection(layer))
        return attending.class_row(query, own, self.keys(view), view.mask)

    def keys(self, view: View) -> Float[Tensor, "B V C"]:
        """Keys of the patches in the last encoder layer, heads side by side."""
        return view.encoder_keys(view.info.num_encoder_layers - 1).float().transpose(1, 2).flatten(2)

    def num_outliers(self, attention: Float[Tensor, "B V"], mask: Bool[Tensor, "B V"], counts: Counts) -> list[int]:
        """Outliers of each picture, at least one; without a keep or `ratio` the number is read back from the device."""
        if counts.asked and self.ratio is not None:
            raise MethodError(f"prumerge: ratio={self.ratio} fixes what is kept, so it takes no keep. Leave one out.")
        if counts.asked:
            return [min(k, max(1, round(k / 4) if self.plus else k - 1)) for k in counts.num_keep]
        if self.ratio is not None:
            return [max(1, int(n * self.ratio)) for n in counts.num_tokens]
        quarter, three = (quantile(attention, share, mask) for share in (0.25, 0.75))
        upper = three + self.outlier_factor * (three - quarter)
        return ((attention > upper[:, None]) & mask).sum(dim=1).clamp(min=1).tolist()

    def centres(
        self, attention: Float[Tensor, "B V"], mask: Bool[Tensor, "B V"], counts: Counts
    ) -> tuple[Int[Tensor, "B M"], list[int]]:
        """Outliers by descending attention, then spaced patches ascending, padded with -1; and how many they are."""
        num_outliers = self.num_outliers(attention, mask, counts)
        outliers = top_indices(attention, num_outliers, mask)
        if not self.plus:
            return outliers, num_outliers
        spaced, num_spaced = self.spaced(mask & ~mask_of(outliers, mask.shape[1]), counts, num_outliers)
        num_centres = [a + b for a, b in zip(num_outliers, num_spaced, strict=True)]
        return in_sequence(outliers, spaced, most=max(num_centres)), num_centres

    def spaced(
        self, others: Bool[Tensor, "B V"], counts: Counts, num_outliers: list[int]
    ) -> tuple[Int[Tensor, "B S"], list[int]]:
        """Evenly spaced patches among `others`, which are no outliers; by `ratio` among all, outliers too."""
        there, device = counts.num_tokens, others.device
        if counts.asked:
            num = [max(k - 1 - n, 0) for k, n in zip(counts.num_keep, num_outliers, strict=True)]
            left = zip(there, num_outliers, num, strict=True)
            rank = pad_indices([[(2 * i + 1) * (v - n) // (2 * m) for i in range(m)] for v, n, m in left], device)
            return torch.where(rank < 0, -1, mask_indices(others, others.shape[1]).gather(1, rank.clamp(min=0))), num
        if self.ratio is not None:
            step = int(1 / self.ratio)
            picks = [range(step // 2, n - 1, step) for n in there]  # the authors' never reach the last patch
            return pad_indices(picks, device), [len(p) for p in picks]
        steps = [max(1, int(1 / (n / v)) // self.grid_divisor) for n, v in zip(num_outliers, there, strict=True)]
        here = torch.arange(others.shape[1], device=device)
        chosen = others & (here % on_device(steps, device)[:, None] == 0)
        chosen &= here < on_device(there, device)[:, None] - 1
        num = chosen.sum(dim=1).tolist()  # read back, as the width of the answer depends on it
        return mask_indices(chosen, max(num)), num

    def num_kept(self, num_centres: list[int], counts: Counts) -> list[int]:
        """Centres and the token for the rest, if there is any. Raises MethodError where `ratio` makes too many."""
        if counts.asked:
            return list(counts.num_keep)
        for m, n in zip(num_centres, counts.num_tokens, strict=True):
            if self.ratio is not None and self.plus and m >= max(n, 2):
                raise MethodError(f"prumerge: ratio={self.ratio} with plus makes {m + 1} tokens of {n}; take less.")
        return [min(m + 1, n) for m, n in zip(num_centres, counts.num_tokens, strict=True)]

    def affinity(self, view: View, centres: Int[Tensor, "B M"]) -> Float[Tensor, "B M V"]:
        """Cosine of each centre's key with those of the patches that it takes in; -inf for all others."""
        keys = self.keys(view)
        here = torch.arange(keys.shape[1], device=keys.device)
        closed = (centres[:, :, None] == here) | (centres < 0)[:, :, None] | ~view.mask[:, None, :]
        affinity = cosine_similarity(keys.gather(1, across(centres, keys)), keys).masked_fill(closed, -torch.inf)
        return nearest_only(affinity, self.neighbours)


def slots_of(centres: Int[Tensor, "B M"], mask: Bool[Tensor, "B V"], has_rest: Sequence[bool]) -> Int[Tensor, "B S"]:
    """The slot of each centre and, in the last column, of the token for the rest: the first that is no centre's.

    A centre that was named before takes the next ones.
    """
    twice = (centres[:, :, None] == centres[:, None, :]).tril(diagonal=-1).any(dim=2) & (centres >= 0)
    free = mask_indices(mask & ~mask_of(centres, mask.shape[1]), centres.shape[1] + 1)
    rest = torch.where(on_device(has_rest, mask.device)[:, None] > 0, free[:, :1], -1)
    return torch.cat([torch.where(twice, free.gather(1, twice.cumsum(dim=1)), centres), rest], dim=1)
