"""Clips prepared by us are those that transformers prepares, of pictures always and of clips where it can."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from tessella.testing.families.pixel_frames import FrameSettings, cut_patches, fit_size, prepare_clip

PER_FRAME = FrameSettings(
    patch_size=4,
    temporal_patch_size=2,
    merge_size=2,
    min_pixels=256,
    max_pixels=4000,
    mean=(0.48, 0.46, 0.41),
    std=(0.27, 0.26, 0.28),
    limits="frame",
)
PER_CLIP = replace(PER_FRAME, limits="clip", max_pixels=12000)
SIZES = ((40, 24), (24, 40), (37, 50), (9, 60), (11, 10), (150, 90), (60, 2))  # the last is thinner than a token

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None,
    reason="the video processors of transformers need torchvision, which is not installed",
)


def noise(frames: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, size[1], size[0], 3), dtype=np.uint8)


def library_arguments(settings: FrameSettings) -> dict[str, Any]:
    return {
        "patch_size": settings.patch_size,
        "temporal_patch_size": settings.temporal_patch_size,
        "merge_size": settings.merge_size,
        "size": {"shortest_edge": settings.min_pixels, "longest_edge": settings.max_pixels},
        "image_mean": list(settings.mean),
        "image_std": list(settings.std),
    }


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "name, settings", [("Qwen2VLImageProcessorPil", PER_FRAME), ("Glm4vImageProcessorPil", PER_CLIP)]
)
def test_a_still_clip_is_a_picture(name: str, settings: FrameSettings, size: tuple[int, int]) -> None:
    """A picture is a clip of one frame, repeated as often as a patch is deep."""
    frame = noise(1, size)
    expected = getattr(transformers, name)(**library_arguments(settings))(Image.fromarray(frame[0]))
    patches, grid = prepare_clip(np.repeat(frame, 2, axis=0), settings)
    assert grid == tuple(expected["image_grid_thw"][0])
    assert patches.dtype == np.float32
    np.testing.assert_allclose(patches, expected["pixel_values"], rtol=0, atol=1e-6)


@needs_torchvision
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("frames", [2, 3, 6])
@pytest.mark.parametrize(
    "name, settings",
    [("Qwen2VLVideoProcessor", PER_FRAME), ("Qwen3VLVideoProcessor", PER_CLIP), ("Glm4vVideoProcessor", PER_CLIP)],
)
def test_clips_are_those_of_the_video_processor(
    name: str, settings: FrameSettings, frames: int, size: tuple[int, int]
) -> None:
    """Pillow and torchvision round differently when they resize: by at most two of 255 levels in soft pictures.

    In hard ones the overshoot of bicubic resizing is cut off at other moments, which shows in single pixels.
    """
    clip = noise(frames, size) // 2 + 64
    processor = getattr(transformers, name)(**library_arguments(settings), do_sample_frames=False)
    expected = processor([clip], return_tensors="np")
    patches, grid = prepare_clip(clip, settings)
    assert grid == tuple(expected["video_grid_thw"][0])
    resized = fit_size(frames, size[1], size[0], settings) != (size[1], size[0])
    tolerance = 2.01 / 255 / min(settings.std) if resized else 1e-5
    np.testing.assert_allclose(patches, expected["pixel_values_videos"], rtol=0, atol=tolerance)


def test_a_patch_holds_the_frames_of_its_time() -> None:
    frames = noise(4, (16, 8)).transpose(0, 3, 1, 2)
    patches, grid = cut_patches(frames, PER_FRAME)
    assert grid == (2, 2, 4)
    cubes = patches.reshape(2, 2, 2, 2, 3, 2, 4, 4)  # time, block, row and column in it, channel, frame, pixels
    for time, block, row, column, frame in np.ndindex(2, 2, 2, 2, 2):
        top, left = row * 4, block * 8 + column * 4
        np.testing.assert_array_equal(
            cubes[time, block, row, column, :, frame], frames[2 * time + frame, :, top : top + 4, left : left + 4]
        )


@pytest.mark.parametrize("settings", [PER_FRAME, PER_CLIP], ids=["frame", "clip"])
def test_the_last_frame_is_repeated(settings: FrameSettings) -> None:
    clip = noise(5, (24, 16))
    patches, grid = prepare_clip(clip, settings)
    filled, same = prepare_clip(np.concatenate([clip, clip[-1:]]), settings)
    assert grid == same == (3, 4, 6)
    np.testing.assert_array_equal(patches, filled)


@pytest.mark.parametrize("size", SIZES[:-1], ids=str)
@pytest.mark.parametrize("frames", [2, 4, 8])
def test_sizes_keep_to_the_limits(frames: int, size: tuple[int, int]) -> None:
    for settings, counted in ((PER_FRAME, 1), (PER_CLIP, frames)):
        height, width = fit_size(frames, size[1], size[0], settings)
        assert height % 8 == width % 8 == 0
        assert settings.min_pixels <= counted * height * width <= settings.max_pixels


def test_more_frames_leave_fewer_pixels_to_each_where_the_clip_is_limited() -> None:
    assert fit_size(2, 80, 80, PER_CLIP) == (72, 72)
    assert fit_size(8, 80, 80, PER_CLIP) == (32, 32)
    assert fit_size(2, 80, 80, PER_FRAME) == fit_size(8, 80, 80, PER_FRAME) == (56, 56)


def test_frames_are_counted_in_whole_patches() -> None:
    """Five frames count as four (2.5 is rounded to even), six as six."""
    assert fit_size(5, 48, 56, PER_CLIP) == (48, 56)
    assert fit_size(6, 48, 56, PER_CLIP) == (40, 48)


@pytest.mark.parametrize(
    "clip, message",
    [
        (noise(2, (8, 8)).astype(np.float32), r"uint8 \[F, height, width, 3\]; got float32 \[2, 8, 8, 3\]"),
        (noise(2, (8, 8))[0], r"got uint8 \[8, 8, 3\]"),
        (noise(2, (8, 8))[:0], r"got uint8 \[0, 8, 8, 3\]"),
        (noise(2, (8, 8)).transpose(0, 3, 1, 2), r"got uint8 \[2, 3, 8, 8\]"),
        (noise(1, (8, 8)), "at least 2 frames here; got 1"),
    ],
    ids=["floats", "one picture", "no frames", "channels first", "too short"],
)
def test_other_frames_are_refused(clip: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare_clip(clip, PER_CLIP)
