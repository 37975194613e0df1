"""Clips prepared without torchvision: frames to the patches that Qwen-like encoders read, with NumPy and Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import Literal

import numpy as np
from PIL import Image
from transformers.video_utils import VideoMetadata

Grid = tuple[int, int, int]  # times, rows, columns of patches


@dataclass(frozen=True)
class FrameSettings:
    """How a family prepares clips; the values are those of its video processor's configuration.

    `min_pixels` and `max_pixels` (there: the edges of `size`) limit the pixels of a 'frame' (Qwen2-VL, Qwen2.5-VL) or
    of the whole 'clip', all its frames together (Qwen3-VL, GLM-4V).
    """

    patch_size: int
    temporal_patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    limits: Literal["frame", "clip"]


def prepare_clip(frames: np.ndarray, settings: FrameSettings) -> tuple[np.ndarray, Grid]:
    """Patches of a clip `frames` [F, h, w, 3] (uint8), and their grid.

    These are its share of `pixel_values_videos` [times * rows * columns, 3 * temporal_patch_size * patch_size**2],
    float32, and its row of `video_grid_thw`. Every frame is used: choose them before.

    Raises ValueError for frames of another shape or dtype, and for a clip shorter than a temporal patch where the
    limits are those of a clip.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames) or frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8 [F, height, width, 3]; got {frames.dtype} {list(frames.shape)}.")
    height, width = fit_size(*frames.shape[:3], settings)
    scaled = normalise_frames(resize_frames(frames, height, width), settings.mean, settings.std)
    return cut_patches(scaled, settings)


def fit_size(num_frames: int, height: int, width: int, settings: FrameSettings) -> tuple[int, int]:
    """Height and width to scale to: whole visual tokens, within the limits, the proportions as near as that lets them.

    No side gets shorter than one token, so a very thin clip may exceed `max_pixels`, as it does in the library.
    Raises ValueError for a clip shorter than a temporal patch where the limits are those of a clip.
    """
    factor = settings.patch_size * settings.merge_size
    depth = settings.temporal_patch_size
    exact = rounded = 1  # how many frames the limits count
    if settings.limits == "clip":
        if num_frames < depth:
            raise ValueError(f"a clip must have at least {depth} frames here; got {num_frames}.")
        exact, rounded = num_frames, round(num_frames / depth) * depth
        grow = max(1.0, factor / height, factor / width)
        height, width = int(height * grow), int(width * grow)
    rows, columns = round(height / factor), round(width / factor)
    pixels = rounded * rows * columns * factor**2
    if pixels > settings.max_pixels:
        shrink = sqrt(exact * height * width / settings.max_pixels)
        rows, columns = (max(1, floor(side / shrink / factor)) for side in (height, width))
    elif pixels < settings.min_pixels:
        grow = sqrt(settings.min_pixels / (exact * height * width))
        rows, columns = (ceil(side * grow / factor) for side in (height, width))
    return rows * factor, columns * factor


def resize_frames(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each frame of [F, h, w, 3] (uint8) scaled to [F, height, width, 3], bicubic."""
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), Image.Resampling.BICUBIC)) for f in frames])


def normalise_frames(frames: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """[F, h, w, 3] in 0..255 to float32 [F, 3, h, w]: to 0..1, less the `mean` of a channel, over its `std`."""
    scaled = (frames.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    return scaled.transpose(0, 3, 1, 2)


def cut_patches(frames: np.ndarray, settings: FrameSettings) -> tuple[np.ndarray, Grid]:
    """Patches of `frames` [F, C, h, w], each flat, and their grid; h and w are multiples of the visual token's side.

    A patch is `temporal_patch_size` frames deep, and the last frame is repeated to fill the last one. The patches that
    the model merges into one visual token lie together.
    """
    depth, patch, merge = settings.temporal_patch_size, settings.patch_size, settings.merge_size
    missing = -len(frames) % depth
    frames = np.concatenate([frames, np.repeat(frames[-1:], missing, axis=0)])
    count, channels, height, width = frames.shape
    times, rows, columns = count // depth, height // patch, width // patch
    split = frames.reshape(times, depth, channels, rows // merge, merge, patch, columns // merge, merge, patch)
    # time, block row, block column, row and column in the block; then channel, frame, pixel row, pixel column
    patches = split.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(times * rows * columns, -1)
    return patches, (times, rows, columns)


def even_metadata(num_frames: int, frames_per_second: float = 2.0) -> VideoMetadata:
    """What processors ask to know of a clip in order to write its times: here of one that was sampled evenly."""
    return VideoMetadata(
        total_num_frames=num_frames,
        fps=frames_per_second,
        duration=num_frames / frames_per_second,
        frames_indices=list(range(num_frames)),
    )
