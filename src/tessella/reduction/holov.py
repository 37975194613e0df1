"""HoloV: divide the count over crops by attention and by how varied each crop is, so that the whole picture stays.

Paper    Zou et al., NeurIPS 2025, arXiv:2510.02912
Acts     connector, once, on the tokens as the language model will read them
Needs    the class token's attention row in the layer whose output the connector reads, and those tokens. Memory: the
         similarities within each crop, a block of 64 MiB at a time
Differs  `variant="paper"`: beta 1, and a crop keeps its best by the holistic score H; `variant="code"`: beta 0.09,
         attention times 1000, and a crop keeps its best by attention. The authors' code fills a crop of fewer tokens
         than its share with zero vectors; here, as in the paper, the surplus goes to crops with room. Crops are slices
         of the sequence, as in the code; the paper's figure draws blocks. Kept tokens stand in their own order. The
         paper's refetching of dropped tokens inside the language model is left out, as it is in the authors' code.
         Encoders without class token: attention received in the last layer, as in the authors' Qwen2.5-VL code, and
         on others than that by `cls_fallback="received"`, which is ours. Negative scores of other methods count as
         zero where crops are weighed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ..core.budget import Counts, on_device
from ..core.cards import Card
from ..core.contracts import Allocation, Allocator, ScoredSelector
from ..core.errors import MethodError
from ..core.model_info import ModelInfo
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.allocation import divide_count, picks_by_quota

BETA = {"paper": 1.0, "code": 0.09}
SCALE = {"paper": 1.0, "code": 1000.0}  # of attention; it changes the size of scores alone
FEW_CROPS = 16  # of a score whose count is not known: the authors' number
BLOCK_ELEMENTS = 2**24  # similarities alive at once


@register
@dataclass(frozen=True)
class HoloV(ScoredSelector, Allocator):
    variant: str = "paper"  # or "code": which of the authors' two versions
    num_crops: int | None = None  # C; None: 16/9 of the tokens over those kept, which is 16 at 64 of 576
    beta: float | None = None  # weight of the variance; None: that of the variant
    sharpness: float = 1.0  # tau, the power of a crop's mean score in its share
    cls_fallback: str | None = None  # "received": mean attention received where there is no class token

    card = Card(
        title="HoloV",
        paper="2510.02912",
        year=2025,
        stages=("connector",),
        needs=("class_token",),
        unit="image",
        newlines="drop",
        nearest="hiprune",
    )

    def __post_init__(self) -> None:
        if self.variant not in BETA:
            raise MethodError(f"holov: variant must be one of {', '.join(BETA)}; got {self.variant!r}.")
        if self.num_crops is not None and self.num_crops < 1:
            raise MethodError(f"holov: num_crops must be >= 1; got {self.num_crops}.")
        for name, value in (("beta", self.beta), ("sharpness", self.sharpness)):
            if value is not None and value < 0:
                raise MethodError(f"holov: {name} must be >= 0; got {value}.")
        if self.cls_fallback not in (None, "received"):
            raise MethodError(f"holov: cls_fallback must be None or 'received'; got {self.cls_fallback!r}.")

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return ("attention_received",) if self.falls_back(info) else self.card.needs

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=(self._layer(info),))

    def remarks(self, info: ModelInfo) -> tuple[str, ...]:
        return ("attention received stands in for the class token",) if self.falls_back(info) else ()

    def falls_back(self, info: ModelInfo) -> bool:
        """Whether attention received takes the place of the class token's row."""
        return not info.has_class_token and (info.packs_pictures or self.cls_fallback == "received")

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """The holistic score H within `num_crops` crops, 16 if that is None; a picture of fewer tokens has as many."""
        counts = self.num_crops_of(view.layout.num_tokens, None)
        return self.holistic(view, crops_of(view.layout.num_tokens, counts, view.device))

    def select(self, view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """As any scored selector, but that the crops of the score follow the count."""
        with view.clock("score"):
            scores = self.holistic(view, self.crops(view, counts))
        return self.choose(scores, view, counts)

    def choose(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """Crop by crop, highest first: by the scores, under `variant="code"` by attention whatever the scores."""
        allocation = self.allocate(scores, view, counts)
        inside = self.attention(view) if self.variant == "code" else scores
        return picks_by_quota(inside, allocation.group, allocation.quota, view.mask, counts.most)

    def allocate(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Allocation:
        """Crops, and shares in proportion to the power `sharpness` of their mean scores."""
        crops = self.crops(view, counts)
        mean = crop_means(scores, crops).clamp(min=0)
        highest = mean.amax(dim=1, keepdim=True)
        weights = (mean / torch.where(highest > 0, highest, 1.0)) ** self.sharpness
        quota = divide_count(weights, counts.num_keep, sizes_of(crops), left_over="weight")
        number = torch.arange(crops.shape[1], device=crops.device)[:, None].expand(crops.shape)
        return Allocation(torch.where(view.mask, by_token(number, crops, view.mask.shape[1]), -1), quota)

    def crops(self, view: View, counts: Counts) -> Int[Tensor, "B C M"]:
        """The tokens of each crop under a count, padded with -1."""
        there = view.layout.num_tokens
        return crops_of(there, self.num_crops_of(there, counts), view.device)

    def num_crops_of(self, num_tokens: Sequence[int], counts: Counts | None) -> list[int]:
        """Crops of each item. Raises MethodError where `num_crops` is more than an item has tokens."""
        if self.num_crops is None:
            kept = [None] * len(num_tokens) if counts is None else counts.num_keep
            wanted = [
                FEW_CROPS if k is None else 16 * n // (9 * max(k, 1)) for n, k in zip(num_tokens, kept, strict=True)
            ]
            return [min(max(c, 1), n) for c, n in zip(wanted, num_tokens, strict=True)]
        for n in num_tokens:
            if self.num_crops > n:
                raise MethodError(f"holov: {n} tokens make no {self.num_crops} crops; num_crops here: 1 to {n}.")
        return [self.num_crops] * len(num_tokens)

    def attention(self, view: View) -> Float[Tensor, "B V"]:
        """The class token's attention to each patch, mean over heads; or what each receives, where there is none."""
        layer = self._layer(view.info)
        if self.falls_back(view.info):
            return view.attention_received(layer).float()
        return view.class_attention(layer).float().mean(dim=1)

    def holistic(self, view: View, crops: Int[Tensor, "B C M"]) -> Float[Tensor, "B V"]:
        """H = A + beta gamma V, with gamma the mean of A over that of V in the crop."""
        attention = at_crops(self.attention(view), crops) * SCALE[self.variant]
        variance = similarity_variance(view.tokens.embeddings, crops)
        num = sizes_of(crops).clamp(min=1)[:, :, None]
        mean_attention, mean_variance = (v.abs().sum(dim=2, keepdim=True) / num for v in (attention, variance))
        beta = BETA[self.variant] if self.beta is None else self.beta
        scores = attention + beta * mean_attention / (mean_variance + 1e-6) * variance
        return by_token(scores, crops, view.mask.shape[1])

    def _layer(self, info: ModelInfo) -> int:
        return info.num_encoder_layers - 1 if self.falls_back(info) else info.feature_layer


def crops_of(num_tokens: Sequence[int], num_crops: Sequence[int], device: torch.device) -> Int[Tensor, "B C M"]:
    """Tokens of consecutive slices, padded with -1; the first `N mod C` of C slices are one token longer."""
    there, several = (on_device(n, device)[:, None] for n in (num_tokens, num_crops))
    number = torch.arange(max(num_crops), device=device)
    size = torch.where(number < several, there // several + (number < there % several), 0)
    first = size.cumsum(dim=1) - size
    place = torch.arange(max(-(-n // c) for n, c in zip(num_tokens, num_crops, strict=True)), device=device)
    return torch.where(place < size[:, :, None], first[:, :, None] + place, -1)


def sizes_of(crops: Int[Tensor, "B C M"]) -> Int[Tensor, "B C"]:
    """Tokens of each crop."""
    return (crops >= 0).sum(dim=2)


def at_crops(values: Float[Tensor, "B V"], crops: Int[Tensor, "B C M"]) -> Float[Tensor, "B C M"]:
    """Values of the tokens of each crop, in float32; zero for padding."""
    picked = values.float().gather(1, crops.clamp(min=0).flatten(1)).view(crops.shape)
    return picked.masked_fill(crops < 0, 0.0)


def by_token(values: Shaped[Tensor, "B C M"], crops: Int[Tensor, "B C M"], num_tokens: int) -> Shaped[Tensor, "B V"]:
    """Values of the tokens of each crop in the order of the tokens; zero for a token of none."""
    out = torch.zeros(len(crops), num_tokens + 1, dtype=values.dtype, device=values.device)
    return out.scatter(1, torch.where(crops >= 0, crops, num_tokens).flatten(1), values.flatten(1))[:, :num_tokens]


def crop_means(scores: Float[Tensor, "B V"], crops: Int[Tensor, "B C M"]) -> Float[Tensor, "B C"]:
    """Mean score of each crop."""
    return at_crops(scores, crops).sum(dim=2) / sizes_of(crops).clamp(min=1)


def similarity_variance(tokens: Float[Tensor, "B V D"], crops: Int[Tensor, "B C M"]) -> Float[Tensor, "B C M"]:
    """How much each token's similarities to the M - 1 others of its crop vary; its own counts as zero among them.

    The sum of squared distances to their mean runs over all M of them and is divided by M - 1.
    """
    batch, num_crops, most = crops.shape
    scale = at_crops(1 / (tokens.float().norm(dim=2) + 1e-6), crops)  # zero for padding
    items = torch.arange(batch, device=crops.device)[:, None, None]
    vectors = tokens[items, crops.clamp(min=0)].float()  # [B, C, M, D]
    others = (sizes_of(crops) - 1).clamp(min=1)[:, :, None]
    rows = max(1, BLOCK_ELEMENTS // max(1, batch * num_crops * most))
    out = []
    for start in range(0, most, rows):
        block = slice(start, start + rows)
        similarity = vectors[:, :, block] @ vectors.transpose(2, 3) * scale[:, :, block, None] * scale[:, :, None]
        similarity.diagonal(start, 2, 3).zero_()
        mean = similarity.sum(dim=3, keepdim=True) / others[..., None]
        spread = (similarity - mean).square().masked_fill((crops < 0)[:, :, None], 0.0)
        out.append(spread.sum(dim=3) / others)
    return torch.cat(out, dim=2).masked_fill(crops < 0, 0.0)
