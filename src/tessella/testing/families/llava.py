"""LLaVA: a CLIP encoder whose class token is dropped, pictures cut to one square."""

from __future__ import annotations

from typing import Any

from .base import TinyFamily
from .parts import PATCH, SIZE, picture_size, text_sizes, vision_sizes
from .text import chat_template, word_tokenizer


class Llava(TinyFamily):
    """16 visual tokens a picture, whatever its size."""

    id = "llava"
    architecture = "LlavaForConditionalGeneration"
    sizes = ((28, 28), (60, 40))

    def config(self, num_layers: int = 4) -> Any:
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

        return LlavaConfig(
            vision_config=CLIPVisionConfig(**vision_sizes()),
            text_config=LlamaConfig(**text_sizes(num_layers)),
            image_token_index=self.processor().image_token_id,
            vision_feature_select_strategy="default",
            vision_feature_layer=-2,
            image_seq_length=(SIZE // PATCH) ** 2,
        )

    def processor(self) -> Any:
        from transformers import CLIPImageProcessorPil, LlavaProcessor

        return LlavaProcessor(
            image_processor=CLIPImageProcessorPil(size={"shortest_edge": SIZE}, crop_size=picture_size()),
            tokenizer=word_tokenizer({"image_token": "<image>"}),
            patch_size=PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=chat_template(),
        )
