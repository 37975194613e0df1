"""Video-LLaVA: an encoder for pictures and another for clips, whose frames keep their class tokens."""

from __future__ import annotations

from typing import Any

from .base import TinyFamily
from .clips import with_clips
from .llava_like import CROP, clip_and_llama, picture_clips, video_token_index, words_and_patches


class VideoLlava(TinyFamily):
    """16 visual tokens a picture, 17 a frame: the class token comes first."""

    id = "video_llava"
    architecture = "VideoLlavaForConditionalGeneration"
    sizes = ((28, 28), (60, 40))
    takes_video = True

    def config(self, num_layers: int = 4) -> Any:
        from transformers import VideoLlavaConfig

        return VideoLlavaConfig(**clip_and_llama(num_layers), video_token_index=video_token_index())

    def processor(self) -> Any:
        from transformers import VideoLlavaImageProcessor, VideoLlavaProcessor

        return with_clips(VideoLlavaProcessor)(
            image_processor=VideoLlavaImageProcessor(**CROP),
            video_processor=picture_clips("VideoLlavaVideoProcessor", **CROP),
            **words_and_patches(),
        )
