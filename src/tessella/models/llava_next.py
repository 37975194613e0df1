"""LLaVA-NeXT: a thumbnail and a mosaic of tiles, un-padded, with a newline token behind each line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel

from .footprint import Footprint
from .llava_like import LlavaLike
from .mosaic import mosaic_footprint, tile_grid


class LlavaNextAdapter(LlavaLike):
    """`LlavaNextForConditionalGeneration`. Tile 0 of an image is its thumbnail."""

    model_types = ("llava_next",)
    entry_types = (LlavaNextModel,)

    def footprints(self, modality: str, arguments: Mapping[str, Any]) -> list[tuple[Footprint, ...]]:
        sizes = [tuple(size) for size in arguments["image_sizes"].tolist()]
        return [(mosaic_footprint(self.tiles(size), self.side, size),) for size in sizes]

    def pixels(self, modality: str, arguments: Mapping[str, Any]) -> list[Tensor]:
        counts = [f.num_items for entry in self.footprints(modality, arguments) for f in entry]
        pixels = arguments["pixel_values"]
        if pixels.ndim == 4:  # all tiles in one row
            return list(pixels.split(counts))
        return [p[:n] for p, n in zip(pixels, counts, strict=True)]

    def tiles(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tiles of a picture of `size` (height, width)."""
        config = self.entry.config
        pinpoints = tuple((int(h), int(w)) for h, w in config.image_grid_pinpoints)
        return tile_grid(size, pinpoints, int(config.vision_config.image_size))
