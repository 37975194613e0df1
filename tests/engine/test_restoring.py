"""Pictures restored from pixels are those that were given: whole ones, tiles without padding, frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tessella
from tessella.engine.restoring import seen_part
from tessella.models.mosaic import mosaic_footprint
from tessella.pictures.fates import panels_of
from tessella.testing.families import tiny_family


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, np.full_like(x, 90)], axis=-1).astype(np.uint8))


def run_on(family_id: str, *images: Image.Image, folder: Path) -> Any:
    """A run that has read these pictures in one prompt, by a saved model, whose folder names the statistics."""
    family = tiny_family(family_id)
    model, processor = tessella.load(family.save(folder), device="cpu")
    text = " ".join(f"word {family.image_text}" for _ in images)
    inputs = processor(text=[text], images=[list(images)], return_tensors="pt")
    with tessella.reduce(model, "random", keep=0.5) as run:
        model(**inputs)
    return run


@pytest.mark.parametrize("size", [(90, 40), (30, 100), (56, 56), (200, 160)])
@pytest.mark.parametrize("family_id", ["llava_next", "llava_onevision"])
def test_a_mosaic_put_together_is_the_picture_without_padding(family_id, size, tmp_path):
    picture = gradient(*size)
    run = run_on(family_id, picture, folder=tmp_path)
    pictures, [[blocks]] = iter(run.pictures), run.blocks
    thumbnail, mosaic = ((p, p.put_together([next(pictures) for _ in p.blocks])) for p in panels_of(blocks))
    assert (thumbnail[0].is_thumbnail, mosaic[0].is_thumbnail) == (True, False)
    assert mosaic[1].width / mosaic[1].height == pytest.approx(size[0] / size[1], rel=0.25)
    for panel, shown in (thumbnail, mosaic):
        same = np.asarray(picture.resize((40, 40), Image.Resampling.BILINEAR), dtype=int)
        restored = np.asarray(shown.resize((40, 40), Image.Resampling.BILINEAR), dtype=int)
        assert np.abs(restored - same).mean() < 16, panel  # a patch of padding at the border is 7 pixels
    assert next(pictures, None) is None


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of how PaliGemma's labels are made
def test_pictures_of_several_families_in_order(tmp_path):
    images = [gradient(48, 48), gradient(48, 48).rotate(90)]
    for family_id in ("gemma3", "qwen2_5_vl", "paligemma"):
        run = run_on(family_id, *images, folder=tmp_path / family_id)
        assert len(run.pictures) == 2
        for shown, picture in zip(run.pictures, images, strict=True):
            same = np.asarray(picture.resize(shown.size, Image.Resampling.BICUBIC), dtype=int)
            assert np.abs(np.asarray(shown, dtype=int) - same).mean() < 6


def test_frames_are_shown_in_order(tmp_path):
    family = tiny_family("qwen2_5_vl")
    model = family.model()
    clip = np.stack([np.full((48, 72, 3), v, dtype=np.uint8) for v in (10, 10, 120, 120, 230, 230)])
    inputs = family.encode([f"word {family.video_text}"], [[]], [[clip]])
    with tessella.reduce(model, "random", keep=0.5) as run:
        model(**inputs)
    grey = [np.asarray(p).mean() for p in run.pictures]
    assert [b.frame for b in run.blocks[0][0]] == [0, 1, 2]
    assert grey == pytest.approx([10, 120, 230], abs=12)
    sheet = run.show(tmp_path / "clip.png")
    assert sheet.width == 3 * 450 + 4 * 16  # three frames of nine columns side by side


def test_the_part_of_a_tile_that_its_tokens_show():
    """Two tiles of 4 x 4 tokens side by side for a picture three times as wide as high: two lines are padding."""
    footprint = mosaic_footprint((1, 2), 4, (20, 80))
    thumbnail, left, right = footprint.blocks
    assert seen_part(footprint, thumbnail, 0) == (0.0, 0.0, 1.0, 1.0)
    assert seen_part(footprint, left, 1) == seen_part(footprint, right, 2) == (0.0, 0.25, 1.0, 0.75)


def test_show_takes_one_picture_an_image(tmp_path):
    picture = gradient(90, 40)
    run = run_on("llava_next", picture, folder=tmp_path)
    restored, given = run.show(tmp_path / "a.png"), run.show(tmp_path / "b.png", images=[picture])
    assert abs(restored.width - given.width) < 30
    with pytest.raises(tessella.TessellaError, match=r"^show needs 1 pictures for the last prompt; got 2\.$"):
        run.show(tmp_path / "c.png", images=[picture, picture])
