"""VisionZip: keep the patches that the class token attends to, and merge the rest into a few evenly spaced ones.

Paper    Yang et al., CVPR 2025, arXiv:2412.04467
Acts     connector, once; kept and merged features then pass the connector
Needs    the class token's attention row, its feature, and the keys of the layer whose output the connector reads
Differs  a count of 0 contextual tokens works; a keep of k means k - n_ctx dominant tokens (the class token among them)
         and n_ctx = min(round(10 k / 64), k - 1) contextual ones, for any k. The class token takes the first dropped
         slot, a contextual token its centre's; the authors' sequence is in `order`. The authors merge every crop
         separately and put all crops' class tokens behind; here each crop's sequence stays together.
         Ours: `merging=False` keeps the same tokens and drops the others, so that centres keep their own features
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import Counts, on_device
from ..core.cards import Card
from ..core.contracts import Merger, mask_of
from ..core.errors import MethodError
from ..core.model_info import ModelInfo
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.merging import merge_by_mean
from ..ops.selection import mask_indices, top_indices
from ..ops.similarity import cosine_similarity


@register
@dataclass(frozen=True)
class VisionZip(Merger):
    contextual: int | None = None  # n_ctx; None: min(round(10 k / 64), k - 1)
    merging: bool = True  # ours; the field cannot be called like the contract's function

    card = Card(
        title="VisionZip",
        paper="2412.04467",
        year=2024,
        stages=("connector",),
        needs=("class_token", "class_features", "encoder_keys", "features"),
        newlines="drop",
        nearest="hiprune",
    )

    def __post_init__(self) -> None:
        if self.contextual is not None and self.contextual < 0:
            raise MethodError(f"visionzip: contextual must be >= 0; got {self.contextual}.")

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=(info.feature_layer,), class_features=True)

    def merge(self, view: View, counts: Counts) -> Reduction:
        """The class token, dominant patches in raster order, then contextual tokens."""
        dominant = self.dominant(view, counts)
        centres = self.centres(view, counts, dominant)
        target = self.targets(view, dominant, centres)
        order = sequence(dominant, centres, view.mask, counts)
        keep = mask_of(order, view.mask.shape[1])
        embeddings = self.tokens(view, order, centres, target)
        return Reduction(keep, counts.num_keep, embeddings, "encoder", order, source_of(keep, target, centres))

    def num_contextual(self, counts: Counts) -> list[int]:
        """Contextual tokens of each item. Raises MethodError when the setting leaves no room for the class token."""
        if self.contextual is None:
            return [max(0, min(round(10 * k / 64), k - 1)) for k in counts.num_keep]
        for k in counts.num_keep:
            if self.contextual >= max(k, 1):
                raise MethodError(
                    f"visionzip: contextual={self.contextual} of {k} kept tokens leaves none for the class token; "
                    f"allowed here: 0 to {max(k - 1, 0)}."
                )
        return [self.contextual] * len(counts.num_keep)

    def dominant(self, view: View, counts: Counts) -> Bool[Tensor, "B V"]:
        """Mask of the dominant patches: one fewer than dominant tokens, of which the class token is one."""
        score = view.class_attention(view.info.feature_layer).float().sum(dim=1)
        num_patches = [max(0, k - c - 1) for k, c in zip(counts.num_keep, self.num_contextual(counts), strict=True)]
        return mask_of(top_indices(score, num_patches, view.mask), score.shape[1])

    def centres(self, view: View, counts: Counts, dominant: Bool[Tensor, "B V"]) -> Int[Tensor, "B M"]:
        """Merge centres: of the other patches in raster order, every `max(1, |R| // n_ctx)`-th from the first on."""
        contextual = on_device(self.num_contextual(counts), dominant.device)[:, None]
        rest = view.mask & ~dominant
        step = (rest.sum(dim=1, keepdim=True) // contextual.clamp(min=1)).clamp(min=1)
        place = rest.cumsum(dim=1) - 1
        chosen = rest & (place % step == 0) & (place // step < contextual)
        return mask_indices(chosen, max(self.num_contextual(counts), default=0))

    def targets(self, view: View, dominant: Bool[Tensor, "B V"], centres: Int[Tensor, "B M"]) -> Int[Tensor, "B V"]:
        """Number of the centre whose key is most similar, for each merged patch; -1 for every other token.

        Without merging it is -1 everywhere.
        """
        if centres.shape[1] == 0 or not self.merging:
            return torch.full_like(view.layout.slot, -1, device=dominant.device)
        keys = view.encoder_keys(view.info.feature_layer).float().mean(dim=1)  # [B, V, D]
        similarity = cosine_similarity(keys, keys.gather(1, _across(centres, keys)))
        similarity = similarity.masked_fill((centres < 0)[:, None, :], -torch.inf)
        merged = view.mask & ~dominant & ~mask_of(centres, keys.shape[1]) & (centres[:, :1] >= 0)
        return torch.where(merged, similarity.argmax(dim=2), -1)

    def tokens(
        self, view: View, order: Int[Tensor, "B K"], centres: Int[Tensor, "B M"], target: Int[Tensor, "B V"]
    ) -> Float[Tensor, "B K Ce"]:
        """Features in the order of the sequence: centres have the mean of their patches added, not averaged in."""
        features = view.features()
        mean = merge_by_mean(features, target, centres.shape[1])
        tokens = features.float().scatter_add(1, _across(centres, features), mean)
        tokens = tokens.gather(1, _across(order, features))
        tokens[:, :1] = view.class_features()[:, None]
        return tokens.to(features.dtype)


def sequence(
    dominant: Bool[Tensor, "B V"], centres: Int[Tensor, "B M"], mask: Bool[Tensor, "B V"], counts: Counts
) -> Int[Tensor, "B K"]:
    """Kept slots as the language model reads them: the class token in the first dropped slot, dominant, contextual."""
    dropped = mask & ~dominant & ~mask_of(centres, mask.shape[1])
    any_kept = on_device(counts.num_keep, mask.device)[:, None] > 0
    class_slot = torch.where(any_kept, mask_indices(dropped, 1), -1)
    order = torch.cat([class_slot, mask_indices(dominant, counts.most), centres], dim=1)
    padding_last = torch.sort((order < 0).to(torch.int8), dim=1, stable=True).indices
    return order.gather(1, padding_last)[:, : counts.most]


def source_of(keep: Bool[Tensor, "B V"], target: Int[Tensor, "B V"], centres: Int[Tensor, "B M"]) -> Int[Tensor, "B V"]:
    """Slot in which each patch went on: its own, its centre's, or -1."""
    none = torch.full_like(centres[:, :1] if centres.shape[1] else keep[:, :1].long(), -1)
    centres = torch.cat([centres, none], dim=1)
    itself = torch.arange(keep.shape[1], device=keep.device)
    return torch.where(keep, itself, centres.gather(1, target % centres.shape[1]))


def _across(index: Int[Tensor, "B K"], like: Float[Tensor, "B V C"]) -> Int[Tensor, "B K C"]:
    """Token indices for every channel; padding reads, and adds nothing to, token 0."""
    return index.clamp(min=0)[:, :, None].expand(-1, -1, like.shape[2])
