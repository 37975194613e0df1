"""SmolVLM: Idefics3 with clips, whose frames are whole pictures that each follow their time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .base import TinyFamily
from .clips import Clip, ClipProcessor, with_clips
from .idefics_like import SIZES, shuffled_config, tile_settings, words_and_tiles
from .pixel_frames import even_metadata


class WholeFrames(ClipProcessor):
    """Frames as pictures that are not cut; shorter clips are filled up with black ones."""

    def prepare(self, clips: Sequence[Clip]) -> dict[str, Any]:
        pictures = self.pictures([list(clip) for clip in clips], return_tensors="pt")
        return {**pictures, "video_metadata": [even_metadata(len(clip)) for clip in clips]}


class SmolVLM(TinyFamily):
    """16 visual tokens a tile or frame. Both arrive as `pixel_values`: a call holds pictures or clips.

    The processor needs the package num2words.
    """

    id = "smolvlm"
    architecture = "SmolVLMForConditionalGeneration"
    sizes = SIZES
    takes_video = True

    def config(self, num_layers: int = 4) -> Any:
        from transformers import SmolVLMConfig

        return SmolVLMConfig(**shuffled_config(num_layers))

    def processor(self) -> Any:
        from transformers import SmolVLMImageProcessorPil, SmolVLMProcessor

        frames = SmolVLMImageProcessorPil(**tile_settings(), do_image_splitting=False)
        return with_clips(SmolVLMProcessor)(
            image_processor=SmolVLMImageProcessorPil(**tile_settings()),
            video_processor=WholeFrames("SmolVLMVideoProcessor", tile_settings(), frames),
            **words_and_tiles(),
        )
