"""Idefics3: a SigLIP-like encoder that reads tiles of a picture and the whole of it, each beside its name."""

from __future__ import annotations

from typing import Any

from .base import TinyFamily
from .idefics_like import SIZES, shuffled_config, tile_settings, words_and_tiles


class Idefics3(TinyFamily):
    """16 visual tokens a tile, 2 or 4 tiles and the whole; rows with fewer tiles are padded with black pictures."""

    id = "idefics3"
    architecture = "Idefics3ForConditionalGeneration"
    sizes = SIZES

    def config(self, num_layers: int = 4) -> Any:
        from transformers import Idefics3Config

        return Idefics3Config(**shuffled_config(num_layers))

    def processor(self) -> Any:
        from transformers import Idefics3ImageProcessorPil, Idefics3Processor

        return Idefics3Processor(image_processor=Idefics3ImageProcessorPil(**tile_settings()), **words_and_tiles())
