"""HiPrune: keep what a middle encoder layer attends to, its neighbours, and what the last layer gathers in.

Paper    Liu et al., August 2025, arXiv:2508.00553 (without the later HiPrune++)
Acts     connector, once
Needs    attention that each patch receives in two encoder layers, and the grid; no class token
Differs  the authors keep floor(total / crops) tokens of every crop: here the count of an image is divided over its
         crops by largest remainder, or given by scope `tile`. Anchors and buffers are excluded from the registers by a
         mask, where the authors' Qwen code subtracts 1 from scores that may exceed it. Too many anchors for the count:
         the lowest-ranked are dropped with their buffers. The default object layer is the paper's of each kind of
         encoder: layer 9 of CLIP's 24, layer 16 of the 32 of Qwen2.5-VL, counted from 1, and where some layers attend
         within windows the nearest that does not
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..core.budget import Counts, on_device
from ..core.cards import Card
from ..core.contracts import Method, Selector
from ..core.errors import MethodError
from ..core.model_info import ModelInfo, PaperLayer, fit_layers
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.neighbours import with_neighbours
from ..ops.selection import top_indices

QWEN_LAYER = PaperLayer(15, depth=32, part="encoder")  # the paper's layer 16 for Qwen2.5-VL


@register
@dataclass(frozen=True)
class HiPrune(Selector):
    alpha: float = 0.1  # share of anchors and buffers, the paper's alpha
    object_layer: int = PaperLayer(8, depth=24, part="encoder")  # the paper's layer 9, counted from 1; or QWEN_LAYER
    output_layer: int | None = field(default=None, metadata={"layer_of": "encoder"})  # None: the feature layer
    wrap: bool = True  # neighbours at a border continue in the next row, as in the authors' code

    card = Card(
        title="HiPrune",
        paper="2508.00553",
        year=2025,
        stages=("connector",),
        needs=("attention_received", "grid"),
        cost="heavy",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise MethodError(f"hiprune: alpha is a share in [0, 1]; got {self.alpha}.")

    def fit(self, info: ModelInfo) -> Method:
        if not isinstance(self.object_layer, PaperLayer) or not info.packs_pictures:
            return super().fit(info)
        layer = fit_layers({"object_layer": QWEN_LAYER}, {"object_layer": "encoder"}, info)["object_layer"]
        nearest = min(info.global_layers or (layer,), key=lambda n: (abs(n - layer), n))
        return replace(self, object_layer=nearest).fit(info)

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=tuple(dict.fromkeys((self.object_layer, self._output_layer(info)))))

    def select(self, view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """Anchors and buffers first, then registers, each by attention received in the output layer."""
        around = with_neighbours(self.anchors(view, counts), view.layout.grids, self.wrap)
        received = view.attention_received(self._output_layer(view.info))
        return top_indices(received, counts.num_keep, view.mask, first=fitting(around, counts, view.mask))

    def anchors(self, view: View, counts: Counts) -> Int[Tensor, "B A"]:
        """The `round(k alpha / 5)` tokens most attended in the object layer, highest first."""
        received = view.attention_received(self.object_layer)
        return top_indices(received, [round(k * self.alpha / 5) for k in counts.num_keep], view.mask)

    def _output_layer(self, info: ModelInfo) -> int:
        return info.feature_layer if self.output_layer is None else self.output_layer


def fitting(around: Int[Tensor, "B A 5"], counts: Counts, mask: Bool[Tensor, "B V"]) -> Bool[Tensor, "B V"]:
    """Mask of anchors with their buffers: of all anchors, highest first, as many as `num_keep` has room for."""
    batch, num_anchors, _ = around.shape
    num_tokens = mask.shape[1]
    rank = torch.arange(num_anchors, device=mask.device)[:, None].expand(batch, -1, 5).reshape(batch, -1)
    place = torch.where(around >= 0, around, num_tokens).reshape(batch, -1)
    first = torch.full((batch, num_tokens + 1), num_anchors, device=mask.device)
    first = first.scatter_reduce(1, place, rank, "amin")[:, :num_tokens]  # the first anchor that brings a token in
    added = torch.zeros(batch, num_anchors + 1, dtype=torch.long, device=mask.device)
    size = added.scatter_add(1, first, mask.long())[:, :num_anchors].cumsum(dim=1)  # tokens of anchors 0..a
    room = (size <= on_device(counts.num_keep, mask.device)[:, None]).sum(dim=1, keepdim=True)
    return (first < room) & mask
