"""LLaVA-NeXT: pictures in tiles by their proportions and a thumbnail; padding is cut off, rows end with a newline."""

from __future__ import annotations

from typing import Any

from .base import TinyFamily
from .llava_like import CROP, GRIDS, clip_and_llama, words_and_patches


class LlavaNext(TinyFamily):
    """16 tokens of the thumbnail, then those of 2 to 4 tiles: 56 x 56 fills them, the other sizes leave padding."""

    id = "llava_next"
    architecture = "LlavaNextForConditionalGeneration"
    sizes = ((56, 56), (90, 40), (30, 100), (200, 160))

    def config(self, num_layers: int = 4) -> Any:
        from transformers import LlavaNextConfig

        return LlavaNextConfig(**clip_and_llama(num_layers), image_grid_pinpoints=GRIDS)

    def processor(self) -> Any:
        from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

        pictures = LlavaNextImageProcessorPil(**CROP, image_grid_pinpoints=GRIDS)
        return LlavaNextProcessor(image_processor=pictures, **words_and_patches())
