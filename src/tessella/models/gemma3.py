"""Gemma 3: a SigLIP encoder pooled to few tokens, layers with sliding windows, pictures that see all of themselves.

Crops of pan-and-scan are pictures of their own, as the prompt says of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers.models.gemma3.modeling_gemma3 import Gemma3Model

from .footprint import Footprint, one_grid
from .llava_like import LlavaLike


class Gemma3Adapter(LlavaLike):
    """`Gemma3ForConditionalGeneration`. The masks that layers are given hold the picture blocks; they are gathered."""

    model_types = ("gemma3",)
    entry_types = (Gemma3Model,)

    def read_layer(self, depth: int, class_token: bool) -> int:
        return depth - 1

    def check_encoding(self, inputs: Mapping[str, Any]) -> None:
        """Nothing of the encoder can be chosen by arguments."""

    def footprints(self, modality: str, arguments: Mapping[str, Any]) -> list[tuple[Footprint, ...]]:
        side = self.connector.tokens_per_side
        return [(one_grid(side, side, merge=self.connector.kernel_size),) for _ in arguments["pixel_values"]]

    def footprints_of_features(self, modality: str, features: Any) -> list[Footprint]:
        side = self.connector.tokens_per_side
        return [one_grid(side, side, merge=self.connector.kernel_size) for _ in features]

    def project(self, features: Float[Tensor, "B K Ce"]) -> Float[Tensor, "B K C"]:
        connector: Any = self.connector
        return (connector.mm_soft_emb_norm(features) @ connector.mm_input_projection_weight).type_as(features)

    def rotary(self, hidden: Tensor, position_ids: Int[Tensor, "B S"], layer: int) -> tuple[Tensor, Tensor]:
        return self.language_model.rotary_emb(hidden, position_ids, self.rotary_kind(layer))

    def rotary_kind(self, layer: int) -> str:
        return str(self.language_model.config.layer_types[layer])
