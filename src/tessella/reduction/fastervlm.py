"""FasterVLM: keep the patches to which the vision encoder's class token pays most attention.

Paper    Zhang et al., December 2024, "[CLS] Attention is All You Need for Training-Free Visual Token Pruning"
Acts     connector, once
Needs    the class token's attention row in the layer whose output the connector reads
Differs  the authors keep k tokens of every crop: that is scope `tile`; by default an image's count is divided over its
         crops. An encoder without class token is refused, unless `cls_fallback="received"` puts the mean attention
         received in its place, which is not the paper's. Scores in float32. Equal scores: the earlier token
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..core.cards import Card
from ..core.contracts import Scorer
from ..core.errors import MethodError, UnsupportedError
from ..core.model_info import ModelInfo
from ..core.registry import register
from ..core.view import Captures, View


@register
@dataclass(frozen=True)
class FasterVLM(Scorer):
    cls_fallback: str | None = None  # "received": mean attention received where there is no class token

    card = Card(
        title="FasterVLM",
        paper="2412.01818",
        year=2024,
        stages=("connector",),
        needs=("class_token",),
        nearest="hiprune",
    )

    def __post_init__(self) -> None:
        if self.cls_fallback not in (None, "received"):
            raise MethodError(f"fastervlm: cls_fallback must be None or 'received'; got {self.cls_fallback!r}.")

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return ("attention_received",) if self.falls_back(info) else self.card.needs

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=(info.feature_layer,))

    def remarks(self, info: ModelInfo) -> tuple[str, ...]:
        return ("attention received stands in for the class token",) if self.falls_back(info) else ()

    def falls_back(self, info: ModelInfo) -> bool:
        """Whether attention received takes the place of the class token's row."""
        return not info.has_class_token and self.cls_fallback == "received"

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """Mean over heads of the class token's attention to each patch, not renormalised."""
        layer = view.info.feature_layer
        if self.falls_back(view.info):
            return view.attention_received(layer)
        if not view.info.has_class_token:
            raise UnsupportedError(
                f"fastervlm needs a class token; the encoder of this {view.info.family} model has none. "
                "Nearest: hiprune."
            )
        return view.class_attention(layer).float().mean(dim=1)
