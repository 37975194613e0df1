"""GLM-4V: a strided convolution makes one row of 2 x 2 patches before the connector; clips fill image placeholders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor
from transformers.models.glm4v.modeling_glm4v import Glm4vModel

from .adapter import placeholders
from .footprint import Footprint
from .on_host import on_host
from .qwen_like import QwenLike, clip_footprint

CLIP_TYPE = 2  # in mm_token_type_ids


class Glm4vAdapter(QwenLike):
    """`Glm4vForConditionalGeneration`. The model takes pictures or clips in one call, not both."""

    model_types = ("glm4v",)
    entry_types = (Glm4vModel,)

    def footprints(self, modality: str, arguments: Mapping[str, Any]) -> list[tuple[Footprint, ...]]:
        merge = self.info.merge
        grids = on_host(arguments[f"{modality}_grid_thw"]).tolist()
        return [(clip_footprint(t, h // merge, w // merge, merge).by_token(),) for t, h, w in grids]

    def slots(self, modality: str, inputs: Mapping[str, Any]) -> Bool[Tensor, "B S"] | None:
        """True where a prompt has a placeholder of a modality.

        In ids every placeholder is an image token, and token types tell those of clips from others; embeddings are
        compared with the image token's or the video token's, as the model does.
        """
        ids, types = inputs.get("input_ids"), inputs.get("mm_token_type_ids")
        if ids is None:
            return super().slots(modality, inputs)
        found = placeholders(inputs, self.entry.config.image_token_id, self.language_model.get_input_embeddings())
        if found is None or types is None:
            return found
        return found & ((types == CLIP_TYPE) == (modality == "video"))

    def project(self, features: Float[Tensor, "B K Ce"]) -> Float[Tensor, "B K C"]:
        return self.connector(features)
