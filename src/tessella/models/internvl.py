"""InternVL: pictures in tiles and a thumbnail behind them, the patches of a square shuffled into one token.

Each tile is encoded by itself, and so is each frame of a clip: the prompt shows frames as pictures with text between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import accumulate
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
        # one class token is no four patches side by side, and no CLIP model shares a space with this encoder
        self.capabilities -= {"class_features", "text_tower"}

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
        tiles, patch = arguments["pixel_values"], self.entry.config.vision_config.patch_size
        rows, columns = (side // p for side, p in zip(tiles.shape[-2:], patch, strict=True))
        return [(tile_footprint(rows, columns, self.info.merge),)] * len(tiles)

    def footprints_of_features(self, modality: str, features: Sequence[Float[Tensor, "N C"]]) -> list[Footprint]:
        merge = self.info.merge
        sides = [square_side(len(f)) * merge for f in features]
        return [tile_footprint(side, side, merge) for side in sides]

    def image_numbers(self, tokens: Tensor, slots: Int[Tensor, " V"], footprints: Sequence[Footprint]) -> list[int]:
        """Tiles whose placeholders stand in one run are one image."""
        run = (slots.diff(prepend=slots[:1]) > 1).cumsum(0)
        starts = [0, *accumulate(f.num_tokens for f in footprints)][:-1]
        return run[starts].tolist()


@lru_cache(maxsize=64)
def tile_footprint(rows: int, columns: int, merge: int) -> Footprint:
    """A tile of `rows` x `columns` patches, `merge` x `merge` of them a token; the connector is given tokens."""
    return one_grid(rows // merge, columns // merge, merge).by_token()
