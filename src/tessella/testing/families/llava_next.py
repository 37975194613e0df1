"""LLaVA-NeXT: pictures in tiles by their proportions, a thumbnail in front, padding cut off, a newline after each row."""

from __future__ import annotations

from typing import Any

from .base import TinyFamily
from .parts import PATCH, SIZE, picture_size, text_sizes, tile_grids, vision_sizes
from .text import chat_template, word_tokenizer

GRIDS = tile_grids((1, 2), (2, 1), (2, 2), (1, 3), (3, 1))


class LlavaNext(TinyFamily):
    """16 tokens of the thumbnail, then those of 2 to 4 tiles; 56 x 56 fills its tiles, the others are padded."""

    id = "llava_next"
    architecture = "LlavaNextForConditionalGeneration"
    sizes = ((56, 56), (90, 40), (30, 100), (200, 160))

    def config(self, num_layers: int = 4) -> Any:
        from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig

        return LlavaNextConfig(
            vision_config=CLIPVisionConfig(**vision_sizes()),
            text_config=LlamaConfig(**text_sizes(num_layers)),
            image_token_index=self.processor().image_token_id,
            image_grid_pinpoints=GRIDS,
            vision_feature_select_strategy="default",
            vision_feature_layer=-2,
            image_seq_length=(SIZE // PATCH) ** 2,
        )

    def processor(self) -> Any:
        from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

        return LlavaNextProcessor(
            image_processor=LlavaNextImageProcessorPil(
                size={"shortest_edge": SIZE}, crop_size=picture_size(), image_grid_pinpoints=GRIDS
            ),
            tokenizer=word_tokenizer({"image_token": "<image>"}),
            patch_size=PATCH,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=chat_template(),
        )
