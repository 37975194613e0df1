"""PaliGemma: a SigLIP encoder, one linear connector, a prompt whose tokens all see each other; Gemma or Gemma 2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.models.paligemma.modeling_paligemma import PaliGemmaModel

from .footprint import Footprint, one_grid
from .llava_like import LlavaLike


class PaliGemmaAdapter(LlavaLike):
    """`PaliGemmaForConditionalGeneration`. The masks that layers are given hold the prompt's block; they are gathered.

    The connector's output is what the first decoder layer reads: the model scales the embeddings of text alone.
    """

    model_types = ("paligemma",)
    entry_types = (PaliGemmaModel,)

    def read_layer(self, depth: int, class_token: bool) -> int:
        return depth - 1

    def check_encoding(self, inputs: Mapping[str, Any]) -> None:
        """Nothing of the encoder can be chosen by arguments."""

    def footprints(self, modality: str, arguments: Mapping[str, Any]) -> list[tuple[Footprint, ...]]:
        return [(one_grid(self.side, self.side),) for _ in arguments["pixel_values"]]

    def footprints_of_features(self, modality: str, features: Any) -> list[Footprint]:
        return [one_grid(self.side, self.side) for _ in features]
