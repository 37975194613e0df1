"""What Qwen2-VL, Qwen2.5-VL, Qwen3-VL and GLM-4V share: patches of pictures of any size, merged 2 x 2, and clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from transformers.video_utils import VideoMetadata

from .clips import Clip, ClipProcessor
from .pixel_frames import FrameSettings, prepare_clip

PATCH, MERGE, DEPTH = 4, 2, 2  # pixels of a patch, patches of a visual token's side, frames of a patch
TOKEN_PIXELS = (PATCH * MERGE) ** 2
SIZES = ((72, 48), (40, 40), (24, 72), (320, 200))  # 9 x 6 tokens, square, tall, and one that is scaled down
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}  # of the 4 pairs of a head
FRAMES_PER_SECOND = 2.0  # what the families' video processors sample at
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


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
        self.temporal_patch_size, self.merge_size = DEPTH, MERGE  # read by the families' processors
        size = settings["size"]
        self.frame_settings = FrameSettings(
            PATCH, DEPTH, MERGE, size["shortest_edge"], size["longest_edge"], MEAN, STD, limits
        )

    def prepare(self, clips: Sequence[Clip]) -> dict[str, Any]:
        prepared = [prepare_clip(clip, self.frame_settings) for clip in clips]
        return {
            "pixel_values_videos": torch.from_numpy(np.concatenate([patches for patches, _ in prepared])),
            "video_grid_thw": torch.tensor([grid for _, grid in prepared]),
            "video_metadata": [_metadata(len(clip)) for clip in clips],
        }


def _metadata(num_frames: int) -> VideoMetadata:
    return VideoMetadata(
        total_num_frames=num_frames,
        fps=FRAMES_PER_SECOND,
        duration=num_frames / FRAMES_PER_SECOND,
        frames_indices=list(range(num_frames)),
    )
