"""Qwen2.5-VL: most encoder blocks attend within windows, and the language model reads three positions a token."""

from __future__ import annotations

from typing import Any

from .base import TinyFamily
from .parts import text_sizes
from .qwen_like import (
    MROPE,
    QWEN_IMAGE,
    QWEN_TOKENS,
    QWEN_VIDEO,
    SIZES,
    PatchClips,
    patch_sizes,
    qwen_processor,
    token_ids,
)


class Qwen2_5_VL(TinyFamily):
    """Windows of 4 x 4 visual tokens in blocks 0 and 2: a picture of 9 x 6 has six, ragged at two borders."""

    id = "qwen2_5_vl"
    architecture = "Qwen2_5_VLForConditionalGeneration"
    sizes = SIZES
    takes_video = True
    image_text = QWEN_IMAGE
    video_text = QWEN_VIDEO

    def config(self, num_layers: int = 4) -> Any:
        from transformers import Qwen2_5_VLConfig

        vision = {
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "window_size": 32,  # pixels
            "fullatt_block_indexes": [1, 3],
            "tokens_per_second": 2,
        }
        return Qwen2_5_VLConfig(
            vision_config={**vision, **patch_sizes()},
            text_config=text_sizes(num_layers, rope_parameters=dict(MROPE)),
            **token_ids(self.processor(), QWEN_TOKENS),
        )

    def processor(self) -> Any:
        from transformers import Qwen2_5_VLProcessor

        return qwen_processor(Qwen2_5_VLProcessor, PatchClips("Qwen2VLVideoProcessor", limits="frame"))
