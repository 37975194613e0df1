"""LLaVA: a CLIP or SigLIP encoder, a two-layer connector and a causal decoder; one grid of tokens a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import LlavaModel

from ..core.layout import Block
from .footprint import Footprint, one_grid
from .llava_like import LlavaLike, square_side


class LlavaAdapter(LlavaLike):
    """`LlavaForConditionalGeneration` with an encoder that has a class token (CLIP) or none (SigLIP)."""

    model_types = ("llava",)
    entry_types = (LlavaModel,)
    encodes_sizes = True

    def footprints(self, modality: str, arguments: Mapping[str, Any]) -> list[tuple[Footprint, ...]]:
        return [(one_grid(*self._grid(picture)),) for picture in arguments["pixel_values"]]

    def footprints_of_features(self, modality: str, features: Sequence[Float[Tensor, "N C"]]) -> list[Footprint]:
        sides = [square_side(len(f)) for f in features]
        return [one_grid(side, side) for side in sides]

    def pictures(self, inputs: Mapping[str, Any]) -> tuple[Float[Tensor, "c _ _"], ...]:
        return tuple(inputs["pixel_values"])

    def picture_size(self, rows: int, columns: int) -> tuple[int, int]:
        return rows * self._patch, columns * self._patch

    def native_size(self) -> tuple[int, int]:
        return self.side * self._patch, self.side * self._patch

    def picture_blocks(self, picture: Float[Tensor, "c _ _"], image: int) -> tuple[Block, ...]:
        return one_grid(*self._grid(picture)).as_image(image)

    def encode_pictures(
        self, pictures: Sequence[Float[Tensor, "c _ _"]], inputs: Mapping[str, Any]
    ) -> BaseModelOutputWithPooling:
        """One pass of the encoder for each size, with position embeddings interpolated to it."""
        names = ("vision_feature_layer", "vision_feature_select_strategy")
        given = {n: inputs[n] for n in names if inputs.get(n) is not None}
        encoded: dict[int, Tensor] = {}
        output = BaseModelOutputWithPooling()
        for shape in dict.fromkeys(p.shape for p in pictures):
            same = [i for i, p in enumerate(pictures) if p.shape == shape]
            pixels = torch.stack([pictures[i] for i in same])
            output = self.entry.get_image_features(
                pixel_values=pixels, interpolate_pos_encoding=True, return_dict=True, **given
            )
            encoded.update(zip(same, output.pooler_output, strict=True))
        if len(encoded) > len(output.pooler_output or ()):  # of several passes only the features are joined
            output = BaseModelOutputWithPooling()
        output.pooler_output = [encoded[i] for i in range(len(pictures))]
        return output

    @property
    def _patch(self) -> int:
        return int(self.entry.config.vision_config.patch_size)

    def _grid(self, picture: Tensor) -> tuple[int, int]:
        return picture.shape[-2] // self._patch, picture.shape[-1] // self._patch
