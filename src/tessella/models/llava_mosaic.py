"""What the LLaVA families share that cut a picture into tiles, and take clips as stacks of frames."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .footprint import Footprint
from .llava_like import LlavaLike
from .mosaic import Size, mosaic_footprint, tile_grid
from .on_host import on_host


class MosaicLlava(LlavaLike):
    """A LLaVA whose pictures are a thumbnail and a mosaic of tiles. Tile 0 of an image is its thumbnail."""

    def __init__(self, entry: Any) -> None:
        super().__init__(entry)
        self.capabilities |= {"frames"} if "video" in self.modalities else set()

    def mosaic(self, size: Size, most: int | None = None) -> Footprint:
        """The footprint of a picture of `size` (height, width); of more than `most` tiles it is shrunk."""
        config = self.entry.config
        pinpoints = tuple((int(h), int(w)) for h, w in config.image_grid_pinpoints)
        return mosaic_footprint(tile_grid(size, pinpoints, int(config.vision_config.image_size)), self.side, size, most)

    def pixels(self, modality: str, arguments: Mapping[str, Any]) -> list[Tensor]:
        """The tiles of each picture, without those that only fill up a batch, or the frames of each clip."""
        pixels = arguments[self.modalities[modality].pixels]
        counts = [f.num_items for entry in self.footprints(modality, arguments) for f in entry]
        if pixels.ndim == 4:  # all tiles in one row
            return list(pixels.split(counts))
        return [p[:n] for p, n in zip(pixels, counts, strict=True)]


def sizes_of(arguments: Mapping[str, Any]) -> list[Size]:
    """Height and width of each picture before it was cut."""
    return [(int(height), int(width)) for height, width in on_host(arguments["image_sizes"]).tolist()]
