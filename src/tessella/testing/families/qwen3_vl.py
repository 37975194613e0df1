"""Qwen3-VL: features of early encoder blocks join early decoder layers, and a clip's frames carry their times."""

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


class Qwen3VL(TinyFamily):
    """Features of encoder blocks 0 and 2 are added in decoder layers 0 and 1; positions come from a grid of 6 x 6."""

    id = "qwen3_vl"
    architecture = "Qwen3VLForConditionalGeneration"
    sizes = SIZES
    takes_video = True
    image_text = QWEN_IMAGE
    video_text = QWEN_VIDEO

    def config(self, num_layers: int = 4) -> Any:
        from transformers import Qwen3VLConfig

        vision = {
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "num_position_embeddings": 36,
            "deepstack_visual_indexes": [0, 2],
        }
        rope = {**MROPE, "mrope_interleaved": True}
        return Qwen3VLConfig(
            vision_config={**vision, **patch_sizes()},
            text_config=text_sizes(num_layers, head_dim=8, rope_parameters=rope),
            **token_ids(self.processor(), QWEN_TOKENS),
        )

    def processor(self) -> Any:
        from transformers import Qwen3VLProcessor

        return qwen_processor(Qwen3VLProcessor, PatchClips("Qwen3VLVideoProcessor", limits="clip"))
