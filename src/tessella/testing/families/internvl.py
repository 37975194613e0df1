"""InternVL: a class token, pictures cut into tiles and a thumbnail behind them, 2 x 2 patches shuffled into a token."""

from __future__ import annotations

from typing import Any

from .base import TinyFamily
from .clips import ClipProcessor, with_clips
from .parts import picture_size, text_sizes, vision_sizes
from .text import chat_template, word_tokenizer

TILE, PATCH = 32, 4  # pixels
TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


class InternVL(TinyFamily):
    """16 visual tokens a tile, 1 to 4 tiles a picture; a frame of a clip is a picture of one tile."""

    id = "internvl"
    architecture = "InternVLForConditionalGeneration"
    sizes = ((32, 32), (80, 40), (40, 120), (64, 64))  # tiles: 1, 2 in a row, 3 in a column, 2 x 2
    takes_video = True
    image_text = "<IMG_CONTEXT>"
    video_text = "<video>"

    def config(self, num_layers: int = 4) -> Any:
        from transformers import InternVLConfig

        # a layer scale of 0.1, the default, would leave the blocks almost without effect
        vision = vision_sizes(image_size=TILE, patch_size=PATCH, layer_scale_init_value=1.0)
        return InternVLConfig(
            vision_config=vision,
            text_config={"model_type": "qwen2", **text_sizes(num_layers)},
            image_token_id=self.processor().image_token_id,
            image_seq_length=(TILE // PATCH // 2) ** 2,
            downsample_ratio=0.5,
            tie_word_embeddings=False,
        )

    def processor(self) -> Any:
        from transformers import GotOcr2ImageProcessorPil, InternVLProcessor

        settings = {"size": picture_size(TILE, TILE)}
        return with_clips(InternVLProcessor)(
            image_processor=GotOcr2ImageProcessorPil(**settings, crop_to_patches=True, max_patches=4),
            tokenizer=word_tokenizer(TOKENS, bos=False),
            video_processor=ClipProcessor("InternVLVideoProcessor", settings, GotOcr2ImageProcessorPil(**settings)),
            image_seq_length=(TILE // PATCH // 2) ** 2,
            chat_template=chat_template(self.image_text, self.video_text),
        )
