"""LLaVA-NeXT-Video: pictures as in LLaVA-NeXT, frames of clips pooled to a quarter of their tokens."""

from __future__ import annotations

from typing import Any

from .base import TinyFamily
from .clips import with_clips
from .llava_like import CROP, GRIDS, clip_and_llama, picture_clips, video_token_index, words_and_patches


class LlavaNextVideo(TinyFamily):
    """4 visual tokens a frame, without newlines."""

    id = "llava_next_video"
    architecture = "LlavaNextVideoForConditionalGeneration"
    sizes = ((56, 56), (90, 40), (30, 100), (200, 160))
    takes_video = True

    def config(self, num_layers: int = 4) -> Any:
        from transformers import LlavaNextVideoConfig

        return LlavaNextVideoConfig(
            **clip_and_llama(num_layers), image_grid_pinpoints=GRIDS, video_token_index=video_token_index()
        )

    def processor(self) -> Any:
        from transformers import LlavaNextImageProcessorPil, LlavaNextVideoProcessor

        return with_clips(LlavaNextVideoProcessor)(
            image_processor=LlavaNextImageProcessorPil(**CROP, image_grid_pinpoints=GRIDS),
            video_processor=picture_clips("LlavaNextVideoVideoProcessor", **CROP),
            **words_and_patches(),
        )
