"""Recoverable Compression: outlying patches by class attention, then by likeness to the question; the rest is gathered.

Paper    Chen et al., AAAI 2025, arXiv:2409.01179
Acts     connector, once; gathered features then pass the connector
Needs    the class token's query and all keys of the last encoder layer, the features that the connector reads, and a
         text tower that shares a space with the encoder
Differs  the authors read one picture at a time. A keep, ours, is the most that may stay: patches of the question are
         given up first, then those of the class token, the least of each first, then centres, and join the rest. Where
         there is no outlier at all the patch most attended stays. The token for the rest takes the first dropped slot,
         and does not exist without centres. `quirk_center_count` and `quirk_center_keys` do what
         the authors' code does and its text does not say: count centres by channels, and compare centres by the keys of
         other patches. Outliers are counted in float64. Equal values: the earlier patch
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from ..core.budget import Budget, Counts
from ..core.cards import Card
from ..core.contracts import Merger, Step, mask_of
from ..core.errors import MethodError
from ..core.model_info import ModelInfo
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.attention import class_row
from ..ops.merging import absorb, across, in_sequence, nearest_only, takers_of
from ..ops.outliers import OUTLYING, local_outlier_factor
from ..ops.selection import mask_indices, top_indices
from ..ops.similarity import cosine_similarity


@register
@dataclass(frozen=True)
class Recoverable(Merger):
    neighbours: int = 20  # of the outlier factor, for patches by attention and by likeness to the question
    center_neighbours: int = 10  # the same for centres
    text_weight: float = 50.0  # of likeness to the question, beside the cosine of keys, where centres gather
    cluster_size: int = 32  # patches that a centre gathers
    quirk_center_count: bool = False  # authors' code: channels times the share of outliers; else patches times it
    quirk_center_keys: bool = False  # authors' code: the r-th patch of the rest has the key of patch r

    card = Card(
        title="Recoverable Compression",
        paper="2409.01179",
        year=2024,
        stages=("connector",),
        needs=("class_token", "encoder_keys", "features", "text_tower"),
        count="adaptive",
        count_reason="outliers are counted in each picture; a keep is the most that may stay",
        prompt_dependent=True,
        nearest="prumerge",
    )

    def __post_init__(self) -> None:
        for name, least in (("neighbours", 1), ("center_neighbours", 1), ("cluster_size", 0)):
            if getattr(self, name) < least:
                raise MethodError(f"recoverable: {name} must be >= {least}; got {getattr(self, name)}.")

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=(info.num_encoder_layers - 1,), text_tower=True)

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """One cut, that keeps at most what is asked."""
        return tuple(replace(s, count="at_most" if budget else None) for s in super().steps(info, budget))

    def merge(self, view: View, counts: Counts) -> Reduction:
        """Outlying patches in raster order, centres by descending attention, and one token for the rest."""
        with view.clock("score"):
            attention, similarity = self.attention(view), self.similarity(view)
        return self.recover(view, attention, similarity, counts)

    def attention(self, view: View) -> Float[Tensor, "B V"]:
        """Attention of the class token to each patch in the last encoder layer, of one head over the full width."""
        query, own = (t.flatten(1) for t in view.class_projection(view.info.num_encoder_layers - 1))
        return class_row(query, own, self.keys(view), view.mask)

    def keys(self, view: View) -> Float[Tensor, "B V C"]:
        """Keys of the patches in the last encoder layer, heads side by side."""
        return view.encoder_keys(view.info.num_encoder_layers - 1).float().transpose(1, 2).flatten(2)

    def similarity(self, view: View) -> Float[Tensor, "B V"]:
        """Cosine of each patch and the question in the text tower's space of D channels, over the root of D."""
        question, patches = view.text_tower()
        return cosine_similarity(patches, question[:, None])[:, :, 0] * question.shape[1] ** -0.5

    def recover(
        self, view: View, attention: Float[Tensor, "B V"], similarity: Float[Tensor, "B V"], counts: Counts
    ) -> Reduction:
        """The reduction by two scores of each patch. The shares of outliers are read back from the device, once."""
        num = self.counted(view, attention, similarity, counts)
        vision, text, centres = self.chosen(attention, similarity, view.mask, num)
        kept = mask_of(torch.cat([vision, text], dim=1), view.mask.shape[1])
        num_kept = [v + t + c + (c > 0) for v, t, c in num]
        return self.gathered(view, attention, similarity, kept, centres, num_kept)

    def counted(
        self, view: View, attention: Float[Tensor, "B V"], similarity: Float[Tensor, "B V"], counts: Counts
    ) -> list[tuple[int, int, int]]:
        """For each item how many patches stay by attention, how many the question brings back, how many are centres."""
        channels = view.features().shape[2] if self.quirk_center_count else None
        most = counts.num_keep if counts.asked else counts.num_tokens
        shares = self.shares(attention, similarity, view.mask).tolist()
        out = []
        for (by_vision, by_text, of_rest), there, limit in zip(shares, counts.num_tokens, most, strict=True):
            vision = int(there * by_vision)
            text = int((there - vision) * by_text)
            left = there - vision - text
            out.append(within(vision, text, min(left, int((channels or left) * of_rest)), limit))
        return out

    def chosen(
        self,
        attention: Float[Tensor, "B V"],
        similarity: Float[Tensor, "B V"],
        mask: Bool[Tensor, "B V"],
        num: Sequence[tuple[int, int, int]],
    ) -> tuple[Int[Tensor, "B A"], Int[Tensor, "B T"], Int[Tensor, "B M"]]:
        """Patches that stay by attention, those that the question brings back, and centres; each highest first."""
        vision = top_indices(attention, [v for v, _, _ in num], mask)
        others = mask & ~mask_of(vision, mask.shape[1])
        text = top_indices(similarity, [t for _, t, _ in num], others)
        rest = others & ~mask_of(text, mask.shape[1])
        return vision, text, top_indices(attention, [c for _, _, c in num], rest)

    def shares(
        self, attention: Float[Tensor, "B V"], similarity: Float[Tensor, "B V"], mask: Bool[Tensor, "B V"]
    ) -> Float64[Tensor, "B 3"]:
        """Shares of outliers by attention, by likeness to the question, and of the rest by attention."""
        there = mask.sum(dim=1)
        by_vision = outlying(attention, self.neighbours, mask)
        num_vision = (there * by_vision).long()
        vision = highest(attention, num_vision, mask)
        least = similarity.masked_fill(~mask, torch.inf).amin(dim=1, keepdim=True)
        by_text = outlying(torch.where(vision, least, similarity), self.neighbours, mask)
        text = highest(similarity, ((there - num_vision) * by_text).long(), mask & ~vision)
        rest = outlying(attention, self.center_neighbours, mask & ~vision & ~text)
        return torch.stack([by_vision, by_text, rest], dim=1)

    def gathered(
        self,
        view: View,
        attention: Float[Tensor, "B V"],
        similarity: Float[Tensor, "B V"],
        kept: Bool[Tensor, "B V"],
        centres: Int[Tensor, "B M"],
        num_kept: list[int],
    ) -> Reduction:
        """Kept patches, centres with what they gather of the others, and a token for all that is neither."""
        features, (num_tokens, num_centres) = view.features(), (kept.shape[1], centres.shape[1])
        rest = view.mask & ~kept
        gone = rest & ~mask_of(centres, num_tokens)
        affinity = self.affinity(view, similarity, rest, centres)
        new = absorb(features, attention, centres, affinity > -torch.inf, gone)
        some = (centres[:, :1] >= 0) if num_centres else centres.new_zeros(len(centres), 1, dtype=torch.bool)
        last = torch.where(some, mask_indices(gone, 1), -1)
        slots = torch.cat([centres, last], dim=1)
        column = torch.where(slots < 0, -1, torch.arange(num_tokens, num_tokens + num_centres + 1, device=slots.device))
        stay = mask_indices(kept, max(num_kept))
        order, column = (in_sequence(stay, part, most=max(num_kept)) for part in (slots, column))
        tokens = torch.cat([features.float(), new], dim=1)
        tokens = tokens.gather(1, across(column, tokens)).to(features.dtype)
        keep = mask_of(order, num_tokens)
        source = torch.where(view.mask, takers_of(keep, slots, affinity), -1)
        return Reduction(keep, tuple(num_kept), tokens, "encoder", order, source)

    def affinity(
        self, view: View, similarity: Float[Tensor, "B V"], rest: Bool[Tensor, "B V"], centres: Int[Tensor, "B M"]
    ) -> Float[Tensor, "B M V"]:
        """Of each centre to the patches that it gathers: cosine of keys and weighted likeness; -inf for all others."""
        keys = self.keys(view)
        if self.quirk_center_keys:
            keys = keys.gather(1, across(rest.cumsum(dim=1) - 1, keys))
        here = torch.arange(keys.shape[1], device=keys.device)
        closed = (centres[:, :, None] == here) | (centres < 0)[:, :, None] | ~rest[:, None, :]
        affinity = cosine_similarity(keys.gather(1, across(centres, keys)), keys)
        affinity = (affinity + self.text_weight * similarity[:, None, :]).masked_fill(closed, -torch.inf)
        return nearest_only(affinity, self.cluster_size)


def outlying(values: Float[Tensor, "B V"], neighbours: int, mask: Bool[Tensor, "B V"]) -> Float64[Tensor, " B"]:
    """Share of outliers, low ones and high ones, among the real values."""
    outliers = (local_outlier_factor(values, neighbours, mask) > OUTLYING) & mask
    return outliers.sum(dim=1).double() / mask.sum(dim=1).clamp(min=1)


def highest(scores: Float[Tensor, "B V"], num: Int[Tensor, " B"], mask: Bool[Tensor, "B V"]) -> Bool[Tensor, "B V"]:
    """Mask of the `num[b]` highest real scores, of numbers that only the device knows."""
    order = scores.masked_fill(~mask, -torch.inf).sort(dim=1, descending=True, stable=True).indices
    taken = torch.arange(mask.shape[1], device=mask.device) < num[:, None]
    return torch.zeros_like(mask).scatter(1, order, taken) & mask


def within(vision: int, text: int, centres: int, most: int) -> tuple[int, int, int]:
    """The same numbers, with the token for the rest `most` >= 0 in all: of the question fewer, then of the others.

    >>> within(5, 4, 2, most=12), within(5, 4, 2, most=9), within(5, 4, 2, most=4), within(5, 4, 2, most=1)
    ((5, 4, 2), (5, 1, 2), (1, 0, 2), (1, 0, 0))
    """
    over = max(0, vision + text + centres + (centres > 0) - most)
    text, over = max(0, text - over), max(0, over - text)
    vision, over = max(0, vision - over), max(0, over - vision)
    centres = max(0, centres - over)
    return (vision, text, centres) if vision + text + centres else (min(most, 1), 0, 0)
