"""What Qwen2-VL, Qwen2.5-VL, Qwen3-VL and GLM-4V share: patches of pictures of any size, merged 2 x 2, and clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch

from .clips import Clip, ClipProcessor, with_clips
from .pixel_frames import FrameSettings, even_metadata, prepare_clip
from .text import chat_template, word_tokenizer

PATCH, MERGE, DEPTH = 4, 2, 2  # pixels of a patch, patches of a visual token's side, frames of a patch
TOKEN_PIXELS = (PATCH * MERGE) ** 2
SIZES = ((72, 48), (40, 40), (24, 72), (320, 200))  # 9 x 6 tokens, square, tall, and one that is scaled down
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}  # of the 4 pairs of a head
QWEN_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


def qwen_processor(processor_class: type, clips: PatchClips) -> Any:
    """The processor of a Qwen family, whose pictures are prepared as Qwen2-VL's are."""
    from transformers import Qwen2VLImageProcessorPil

    return with_clips(processor_class)(
        image_processor=Qwen2VLImageProcessorPil(**patch_settings()),
        tokenizer=word_tokenizer(QWEN_TOKENS, bos=False),
        video_processor=clips,
        chat_template=chat_template(QWEN_IMAGE, QWEN_VIDEO),
    )


def token_ids(processor: Any, tokens: Mapping[str, str]) -> dict[str, int]:
    """The ids of special tokens, as arguments of a config: "image_token" gives `image_token_id`."""
    return {f"{name}_id": processor.tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}


def patch_sizes() -> dict[str, int]:
    """How patches are cut, as arguments of vision configs."""
    return {"patch_size": PATCH, "spatial_merge_size": MERGE, "temporal_patch_size": DEPTH}


def patch_settings(max_tokens: int = 80, **other: Any) -> dict[str, Any]:
    """Arguments of an image or video processor: pictures of 4 to `max_tokens` visual tokens."""
    size = {"shortest_edge": 4 * TOKEN_PIXELS, "longest_edge": max_tokens * TOKEN_PIXELS}
    patches = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": DEPTH}
    return {**patches, "size": size, "image_mean": list(MEAN), "image_std": list(STD), **other}


class PatchClips(ClipProcessor):
    """Clips as flat patches with a grid each, taken to be sampled twice a second."""

    def __init__(self, name: str, limits: Literal["frame", "clip"]) -> None:
        settings = patch_settings(max_tokens=80 if limits == "frame" else 320, do_sample_frames=False)
        super().__init__(name, settings)
        size = settings["size"]
        self.frame_settings = FrameSettings(
            PATCH, DEPTH, MERGE, size["shortest_edge"], size["longest_edge"], MEAN, STD, limits
        )

    def prepare(self, clips: Sequence[Clip]) -> dict[str, Any]:
        prepared = [prepare_clip(clip, self.frame_settings) for clip in clips]
        return {
            "pixel_values_videos": torch.from_numpy(np.concatenate([patches for patches, _ in prepared])),
            "video_grid_thw": torch.tensor([grid for _, grid in prepared]),
            "video_metadata": [even_metadata(len(clip)) for clip in clips],
        }
