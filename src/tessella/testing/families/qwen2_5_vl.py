"""Qwen2.5-VL: most encoder blocks attend within windows, and the language model reads three positions a token."""

from __future__ import annotations

from typing import Any

from .base import TinyFamily
from .clips import with_clips
from .parts import text_sizes
from .qwen_like import MROPE, SIZES, PatchClips, patch_settings, patch_sizes
from .text import chat_template, word_tokenizer

START, END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"


class Qwen2_5_VL(TinyFamily):
    """Windows of 4 x 4 visual tokens in blocks 0 and 2: a picture of 9 x 6 has six, ragged at two borders."""

    id = "qwen2_5_vl"
    architecture = "Qwen2_5_VLForConditionalGeneration"
    sizes = SIZES
    takes_video = True
    image_text = START + IMAGE + END
    video_text = START + VIDEO + END

    def config(self, num_layers: int = 4) -> Any:
        from transformers import Qwen2_5_VLConfig

        tokenizer = self.processor().tokenizer
        vision = {
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "window_size": 32,
            "fullatt_block_indexes": [1, 3],
            "tokens_per_second": 2,
        }
        return Qwen2_5_VLConfig(
            vision_config={**vision, **patch_sizes()},
            text_config=text_sizes(num_layers, rope_parameters=dict(MROPE)),
            image_token_id=tokenizer.image_token_id,
            video_token_id=tokenizer.video_token_id,
            vision_start_token_id=tokenizer.vision_start_token_id,
            vision_end_token_id=tokenizer.vision_end_token_id,
        )

    def processor(self) -> Any:
        from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil

        special = {"image_token": IMAGE, "video_token": VIDEO, "vision_start_token": START, "vision_end_token": END}
        return with_clips(Qwen2_5_VLProcessor)(
            image_processor=Qwen2VLImageProcessorPil(**patch_settings()),
            tokenizer=word_tokenizer(special, bos=False),
            video_processor=PatchClips("Qwen2VLVideoProcessor", limits="frame"),
            chat_template=chat_template(self.image_text, self.video_text),
        )
