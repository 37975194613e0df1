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
from jaxtyping import Bool, Int
from torch import Tensor

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import KeptMerger, mask_of
from ..core.errors import MethodError
from ..core.model_info import ModelInfo
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.merging import merge_into_centres, nearest_centres, spaced_centres, with_centres
from ..ops.selection import top_indices


@register
@dataclass(frozen=True)
class VisionZip(KeptMerger):
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

    def kept(self, view: View, counts: Counts) -> Bool[Tensor, "B V"]:
        """The dominant patches."""
        return self.dominant(view, counts)

    def reserved(self, counts: Counts) -> tuple[int, ...]:
        """The class token and the contextual tokens."""
        each = zip(counts.num_keep, self.num_contextual(counts), strict=True)
        return tuple(c + 1 if k else 0 for k, c in each)

    def fold(self, kept: Bool[Tensor, "B V"], view: View, counts: Counts) -> Reduction:
        """The class token, kept patches in raster order, then contextual tokens, into which the others are merged."""
        centres = self.centres(view, counts, kept)
        target = self.targets(view, kept, centres)
        order = with_centres(kept, centres, view.mask, counts.num_keep, has_class=True)
        out = merge_into_centres(view.features(), order, centres, target, counts.num_keep, "encoder")
        assert out.embeddings is not None
        out.embeddings[:, :1] = view.class_features()[:, None]
        return out

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
        return spaced_centres(view.mask & ~dominant, self.num_contextual(counts))

    def targets(self, view: View, dominant: Bool[Tensor, "B V"], centres: Int[Tensor, "B M"]) -> Int[Tensor, "B V"]:
        """Number of the centre whose key is most similar, for each merged patch; -1 for every other token.

        Without merging it is -1 everywhere.
        """
        if not self.merging:
            return torch.full_like(dominant, -1, dtype=torch.long)
        keys = view.encoder_keys(view.info.feature_layer).float().mean(dim=1)  # [B, V, D]
        return nearest_centres(keys, centres, view.mask & ~dominant & ~mask_of(centres, keys.shape[1]))
