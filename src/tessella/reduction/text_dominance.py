"""Text dominance: keep the patches to which the class token pays most attention, to restore the balance with the text.

Paper    Wu et al., August 2025, "When Language Overrules: Revealing Text Dominance in Multimodal Large Language
         Models", arXiv:2508.10552. Here is what it does against the dominance; its indices are a measure, no method
Acts     connector, once
Needs    the class token's attention row in the last encoder layer but one
Differs  there is no authors' code, and the paper names neither layer nor heads: layer and mean over heads are those of
         FasterVLM, which it follows. Its r is 1 - keep: r = 75, 90 and 95% are keeps of 0.25, 0.1 and 0.05. An image's
         count is divided over its crops. An encoder without class token is refused, unless `cls_fallback="received"`
         puts the mean attention received in its place. Scores in float32. Equal scores: the earlier token
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
class TextDominance(Scorer):
    cls_layer: int | None = field(default=None, metadata={"layer_of": "encoder"})  # 0-based; None: the last but one
    cls_fallback: str | None = None  # "received": mean attention received where there is no class token

    card = Card(
        title="Text dominance",
        paper="2508.10552",
        year=2025,
        stages=("connector",),
        needs=("class_token",),
        nearest="hiprune",
    )

    def __post_init__(self) -> None:
        if self.cls_fallback not in (None, "received"):
            raise MethodError(f"text_dominance: cls_fallback must be None or 'received'; got {self.cls_fallback!r}.")

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return ("attention_received",) if self.falls_back(info) else self.card.needs

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=(self.layer_to_read(info),))

    def remarks(self, info: ModelInfo) -> tuple[str, ...]:
        return ("attention received stands in for the class token",) if self.falls_back(info) else ()

    def falls_back(self, info: ModelInfo) -> bool:
        """Whether attention received takes the place of the class token's row."""
        return not info.has_class_token and self.cls_fallback == "received"

    def layer_to_read(self, info: ModelInfo) -> int:
        """The encoder layer whose attention ranks. Raises UnsupportedError where there is no last but one."""
        if self.cls_layer is not None:
            return self.cls_layer
        if info.num_encoder_layers < 2:
            raise UnsupportedError(
                "text_dominance reads the last encoder layer but one, and this encoder has one layer; give cls_layer=0."
            )
        return info.num_encoder_layers - 2

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """Mean over heads of the class token's attention to each patch, not renormalised."""
        layer = self.layer_to_read(view.info)
        if self.falls_back(view.info):
            return view.attention_received(layer)
        if not view.info.has_class_token:
            raise UnsupportedError(
                f"text_dominance needs a class token; the encoder of this {view.info.family} model has none. "
                "Nearest: hiprune."
            )
        return view.class_attention(layer).float().mean(dim=1)
