"""InternVL: pictures in tiles and a thumbnail behind them, the patches of a square shuffled into one token.

Each tile is encoded by itself, and so is each frame of a clip: the prompt shows frames as pictures with text between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.models.internvl.modeling_internvl import InternVLModel, InternVLVisionModel

from ..core.errors import UnsupportedError
from .adapter import Statistics
from .footprint import Footprint, one_grid
from .llava_like import LlavaLike, square_side

IMAGENET_STATISTICS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class InternVLAdapter(LlavaLike):
    """`InternVLForConditionalGeneration`. The connector is given a token's patches side by side, in raster order."""

    model_types = ("internvl",)
    entry_types = (InternVLModel,)

    def __init__(self, entry: Any) -> None:
        super().__init__(entry)
        self.info = replace(self.info, merge=round(1 / entry.config.downsample_ratio))
        self.capabilities -= {"class_features"}  # one class token is no four patches side by side

    def tower_layers(self, tower: nn.Module) -> nn.ModuleList:
        if not isinstance(tower, InternVLVisionModel):
            raise UnsupportedError(
                f"the vision encoder {type(tower).__name__} is not InternVL's; its layers are unknown."
            )
        return tower.encoder.layer

    def tower_has_class_token(self, tower: nn.Module) -> bool:
        return True

    def encoder_attention(self, layer: int) -> nn.Module:
        return self.encoder_layers[layer].attention  # type: ignore[return-value]

    def usual_statistics(self) -> Statistics:
        return IMAGENET_STATISTICS

    def footprints(self, modality: str, arguments: Mapping[str, Any]) -> list[tuple[Footprint, ...]]:
        height, width = self.entry.config.vision_config.patch_size
        return [(self._tile(p.shape[-2] // height, p.shape[-1] // width),) for p in arguments["pixel_values"]]

    def footprints_of_features(self, modality: str, features: Sequence[Float[Tensor, "N C"]]) -> list[Footprint]:
        sides = [square_side(len(f)) * self.info.merge for f in features]
        return [self._tile(side, side) for side in sides]

    def image_numbers(self, tokens: Tensor, slots: Int[Tensor, " V"], footprints: Sequence[Footprint]) -> list[int]:
        """Tiles whose placeholders stand in one run are one image."""
        run = (slots.diff() > 1).long().cumsum(0).tolist()  # by placeholder, but the first
        out, first = [], 0
        for footprint in footprints:
            out.append(run[first - 1] if first else 0)
            first += footprint.num_tokens
        return out

    def _tile(self, rows: int, columns: int) -> Footprint:
        """The footprint of `rows` x `columns` patches."""
        merge = self.info.merge
        return one_grid(rows // merge, columns // merge, merge).by_token()
