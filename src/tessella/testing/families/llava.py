"""LLaVA: an encoder whose class token is dropped, pictures cut to one square."""

from __future__ import annotations

from typing import Any

from .base import TinyFamily
from .llava_like import CROP, clip_and_llama, words_and_patches


class Llava(TinyFamily):
    """16 visual tokens a picture, whatever its size."""

    id = "llava"
    architecture = "LlavaForConditionalGeneration"
    sizes = ((28, 28), (60, 40))

    def config(self, num_layers: int = 4) -> Any:
        from transformers import LlavaConfig

        return LlavaConfig(**clip_and_llama(num_layers))

    def processor(self) -> Any:
        from transformers import CLIPImageProcessorPil, LlavaProcessor

        return LlavaProcessor(image_processor=CLIPImageProcessorPil(**CROP), **words_and_patches())
