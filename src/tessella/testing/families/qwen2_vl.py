"""Qwen2-VL: every encoder block attends to the whole picture; the language model reads three positions a token."""

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


class Qwen2VL(TinyFamily):
    """The encoder is 16 wide (`embed_dim`), the features it hands over are 32 wide (`hidden_size`)."""

    id = "qwen2_vl"
    architecture = "Qwen2VLForConditionalGeneration"
    sizes = SIZES
    takes_video = True
    image_text = QWEN_IMAGE
    video_text = QWEN_VIDEO

    def config(self, num_layers: int = 4) -> Any:
        from transformers import Qwen2VLConfig

        return Qwen2VLConfig(
            vision_config={"depth": 4, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, **patch_sizes()},
            text_config=text_sizes(num_layers, rope_parameters=dict(MROPE)),
            **token_ids(self.processor(), QWEN_TOKENS),
        )

    def processor(self) -> Any:
        from transformers import Qwen2VLProcessor

        return qwen_processor(Qwen2VLProcessor, PatchClips("Qwen2VLVideoProcessor", limits="frame"))
