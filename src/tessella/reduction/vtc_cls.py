"""VTC-CLS: keep the patches to which the class token pays most attention, summed over several encoder layers.

Paper    "[CLS] Token Tells Everything Needed for Training-free Efficient MLLMs", December 2024, arXiv:2412.05819
Acts     connector, once
Needs    the class token's attention rows in the encoder layers `start` to the last but one
Differs  the default start is two thirds of the encoder's depth (16 of CLIP's 24 layers, where the authors begin) on
         every encoder; an encoder of two layers has one layer to read, and one layer alone is refused. The authors keep
         k tokens of every picture of one crop: that is scope `tile`; by default an image's count is divided over its
         crops. Scores in float32. Equal scores: the earlier token. The authors' `mean` ranks as `sum` does
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.cards import Card
from ..core.contracts import Method, Scorer
from ..core.errors import MethodError, UnsupportedError
from ..core.model_info import ModelInfo, PaperLayer
from ..core.registry import register
from ..core.view import Captures, View

ENSEMBLES = ("sum", "min", "max")


@register
@dataclass(frozen=True)
class VTCCLS(Scorer):
    start: int = PaperLayer(16, depth=24, part="encoder")  # first layer of the sum, 0-based
    ensemble: str = "sum"  # over layers: sum, min or max

    card = Card(
        title="VTC-CLS",
        paper="2412.05819",
        year=2024,
        stages=("connector",),
        needs=("class_token",),
        nearest="hiprune",
    )

    def __post_init__(self) -> None:
        if self.ensemble not in ENSEMBLES:
            raise MethodError(f"vtc_cls: ensemble must be one of {', '.join(ENSEMBLES)}; got {self.ensemble!r}.")

    def fit(self, info: ModelInfo) -> Method:
        depth, start = info.num_encoder_layers, self.start
        if depth < 2:
            raise UnsupportedError("vtc_cls leaves the last encoder layer out, and this encoder has no other.")
        if isinstance(start, PaperLayer):
            return replace(self, start=min(round(depth * int(start) / start.depth), depth - 2))
        if not 0 <= start <= depth - 2:
            raise UnsupportedError(
                f"vtc_cls: start={start} leaves no layer; of this encoder's {depth} the last is left out: "
                f"0 to {depth - 2}."
            )
        return self

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=self.layers(info))

    def layers(self, info: ModelInfo) -> tuple[int, ...]:
        """Layers that are read: from `start` to the last but one, whose output the paper's connector reads."""
        return tuple(range(self.start, info.num_encoder_layers - 1))

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """The class token's attention to each patch, mean over heads, not renormalised; then the sum over layers."""
        if not view.info.has_class_token:
            raise UnsupportedError(
                f"vtc_cls needs a class token; the encoder of this {view.info.family} model has none. Nearest: hiprune."
            )
        rows = [view.class_attention(layer).float().mean(dim=1) for layer in self.layers(view.info)]
        over_layers = torch.stack(rows)
        if self.ensemble == "sum":
            return over_layers.sum(dim=0)
        return over_layers.amin(dim=0) if self.ensemble == "min" else over_layers.amax(dim=0)
