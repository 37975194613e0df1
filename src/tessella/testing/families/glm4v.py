"""GLM-4V: a clip is a row of pictures with a grid each, whose tokens carry the picture's id and not the clip's."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from .base import TinyFamily
from .clips import with_clips
from .parts import text_sizes
from .qwen_like import MROPE, SIZES, PatchClips, patch_settings, patch_sizes, token_ids
from .text import chat_template, word_tokenizer

TOKENS = {
    "image_token": "<|image|>",
    "video_token": "<|video|>",
    "image_start_token": "<|begin_of_image|>",
    "image_end_token": "<|end_of_image|>",
    "video_start_token": "<|begin_of_video|>",
    "video_end_token": "<|end_of_video|>",
}


class Glm4v(TinyFamily):
    """Learned positions of 6 x 6 patches, interpolated; three of the four pairs of a head are rotated.

    The model takes every picture token of a call for a clip's if there is one: a call holds pictures or clips.
    """

    id = "glm4v"
    architecture = "Glm4vForConditionalGeneration"
    sizes = SIZES
    takes_video = True
    image_text = "<|begin_of_image|><|image|><|end_of_image|>"
    video_text = "<|begin_of_video|><|video|><|end_of_video|>"

    def config(self, num_layers: int = 4) -> Any:
        from transformers import Glm4vConfig

        vision = {
            "depth": 4,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 4,
            "out_hidden_size": 32,
            "image_size": 24,
        }
        rope = {**MROPE, "mrope_section": [1, 1, 1], "partial_rotary_factor": 0.75}
        return Glm4vConfig(
            vision_config={**vision, **patch_sizes()},
            text_config=text_sizes(num_layers, rope_parameters=rope),
            **token_ids(self.processor(), TOKENS),
        )

    def processor(self) -> Any:
        from transformers import Glm4vImageProcessorPil, Glm4vProcessor

        return with_clips(Glm4vProcessor)(
            image_processor=Glm4vImageProcessorPil(**patch_settings(max_tokens=160)),  # counted twice a picture
            tokenizer=word_tokenizer(TOKENS, bos=False),
            video_processor=PatchClips("Glm4vVideoProcessor", limits="clip"),
            chat_template=chat_template(self.image_text, self.video_text),
        )

    def encode(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        with warnings.catch_warnings():  # transformers 5.24 makes arrays of tensors in a way that NumPy 2 deprecates
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            return super().encode(*args, **kwargs)
