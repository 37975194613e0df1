"""LLaVA-OneVision: tiles that are shrunk when they are many, several pictures of one prompt untiled, pooled clips."""

from __future__ import annotations

from typing import Any

from .base import TinyFamily
from .clips import with_clips
from .llava_like import picture_clips
from .parts import PATCH, picture_size, text_sizes, tile_grids, vision_sizes
from .text import chat_template, word_tokenizer

SIDE = 5  # patches of a tile's side; odd, so that pooling to 3 x 3 rounds up
TILE = SIDE * PATCH
GRIDS = tile_grids(*[(rows, columns) for rows in (1, 2, 3) for columns in (1, 2, 3)], size=TILE)
LIMIT = "anyres_max_4"  # more tokens than 4 tiles have are shrunk: here those of 3 x 2 and 3 x 3 tiles
SPECIAL = {"image_token": "<image>", "video_token": "<video>"}


class LlavaOnevision(TinyFamily):
    """25 tokens of the thumbnail, then up to 4 tiles' and newlines; 9 a frame of a clip and a newline at its end."""

    id = "llava_onevision"
    architecture = "LlavaOnevisionForConditionalGeneration"
    sizes = ((70, 70), (100, 20), (30, 70), (105, 105))
    takes_video = True

    def config(self, num_layers: int = 4) -> Any:
        from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

        tokenizer = word_tokenizer(SPECIAL)
        return LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(**vision_sizes(image_size=TILE), vision_use_head=False),
            text_config=Qwen2Config(**text_sizes(num_layers)),
            image_token_index=tokenizer.image_token_id,
            video_token_index=tokenizer.video_token_id,
            image_grid_pinpoints=GRIDS,
            vision_aspect_ratio=LIMIT,
        )

    def processor(self) -> Any:
        from transformers import LlavaOnevisionImageProcessorPil, LlavaOnevisionProcessor

        square = {"size": picture_size(TILE, TILE), "do_center_crop": False}
        return with_clips(LlavaOnevisionProcessor)(
            image_processor=LlavaOnevisionImageProcessorPil(**square, image_grid_pinpoints=GRIDS),
            tokenizer=word_tokenizer(SPECIAL, bos=False),
            video_processor=picture_clips("LlavaOnevisionVideoProcessor", **square),
            num_image_tokens=SIDE * SIDE,
            vision_feature_select_strategy="full",
            chat_template=chat_template(),
            vision_aspect_ratio=LIMIT,
        )
