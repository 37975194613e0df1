"""Drawings say with their pixels and counts what became of each patch."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageChops, ImageStat

from tessella.core.errors import InputError, LayoutError
from tessella.core.layout import Block
from tessella.pictures.drawing import MARGIN, draw_kept, draw_prompt, sheet
from tessella.pictures.fates import read_fate

TOP = MARGIN // 2  # white space above a picture


def _stripes(width: int = 64, height: int = 64) -> Image.Image:
    """A picture of saturated colours without flat grey areas."""
    out = Image.new("RGB", (width, height))
    for x in range(width):
        for y in range(height):
            out.putpixel((x, y), (200, 30 + 100 * (x // 4 % 2), 20 + 60 * (y // 4 % 2)))
    return out


def _patch(drawn: Image.Image, row: int, column: int, cell: int) -> Image.Image:
    """The inner part of a patch, without outlines."""
    left, top = MARGIN + column * cell, TOP + row * cell
    return drawn.crop((left + 4, top + 4, left + cell - 4, top + cell - 4))


def _saturation(image: Image.Image) -> float:
    return ImageStat.Stat(image.convert("HSV")).mean[1]


def _lightness(image: Image.Image) -> float:
    return ImageStat.Stat(image.convert("L")).mean[0]


def test_kept_patches_show_the_picture_unchanged_and_dropped_ones_are_pale_grey():
    picture = _stripes(448, 448)
    drawn = draw_kept(picture, (4, 4), torch.tensor([0, 5]))
    inner = picture.crop((4, 4, 108, 108))
    assert ImageChops.difference(_patch(drawn, 0, 0, 112), inner).getextrema() == ((0, 0), (0, 0), (0, 0))
    dropped = _patch(drawn, 0, 1, 112)
    assert _saturation(dropped) < 12 < 150 < _saturation(inner)
    assert _lightness(dropped) > 190 > 120 > _lightness(inner)


def test_merged_patches_are_tinted_between_kept_and_dropped_also_in_grey():
    parents = [0, 0, -1, -1]
    drawn = draw_kept(_stripes(448, 448), (2, 2), [0], parents)
    kept, merged, dropped = (_patch(drawn, r, c, 224) for r, c in ((0, 0), (0, 1), (1, 1)))
    assert _saturation(kept) > _saturation(merged) > _saturation(dropped) + 15
    assert _lightness(kept) < _lightness(merged) - 20 < _lightness(dropped) - 40


def test_a_line_runs_from_a_merged_patch_to_its_parent():
    with_line = draw_kept(_stripes(448, 448), (1, 4), [0], [0, -1, -1, 0])
    without = draw_kept(_stripes(448, 448), (1, 4), [0], [0, -1, -1, -1])
    middle = (MARGIN + 2 * 112 + 56, TOP + 224)  # inside patch 2, which the line crosses
    box = (middle[0] - 20, middle[1] - 20, middle[0] + 20, middle[1] + 20)
    difference = ImageChops.difference(with_line.crop(box), without.crop(box)).convert("L")
    assert difference.getextrema()[1] > 60
    assert difference.getbbox()[3] - difference.getbbox()[1] <= 4  # thin


def test_fates_count_each_patch_once():
    fate = read_fate((2, 3), [1, 4], [1, 1, -1, -1, 4, 4])
    assert (fate.kept, fate.merged, fate.dropped) == ((1, 4), (0, 5), (2, 3))
    assert read_fate((1, 3), [2], None).dropped == (0, 1)
    assert read_fate((1, 2), [0], [0, 1]).dropped == (1,)  # its own parent but not kept: dropped


@pytest.mark.parametrize(
    ("kept", "merged", "message"),
    [
        ([4], None, "kept patch 4 lies outside the 2 x 2 grid \\(0 to 3\\)"),
        ([-1], None, "kept patch -1 lies outside"),
        ([0], [0, 0, 0], "merged must hold 4 indices"),
        ([0], [0, 0, 0, 4], "merged must hold 4 indices from -1 to 3, one per patch; got 4 from 0 to 4"),
    ],
)
def test_indices_outside_the_grid_are_refused(kept, merged, message):
    with pytest.raises(LayoutError, match=message):
        draw_kept(_stripes(), (2, 2), kept, merged)


def test_the_picture_keeps_its_proportions_and_is_enlarged():
    drawn = draw_kept(_stripes(200, 100), (5, 10), [0], size=400)
    assert drawn.width == 400 + 2 * MARGIN
    assert 200 + TOP < drawn.height < 280  # picture and one legend line
    tiny = draw_kept(Image.new("RGB", (1, 1), "red"), (14, 14), [3])
    assert tiny.width == 448 + 2 * MARGIN


def test_a_long_caption_wraps_inside_the_width_and_grows_the_height():
    short = draw_kept(_stripes(), (2, 2), [0], caption="one line")
    long = draw_kept(_stripes(), (2, 2), [0], caption="many words " * 40 + "x" * 300)
    assert long.width == short.width
    assert long.height > short.height + 100
    right = long.crop((long.width - MARGIN + 2, 0, long.width, long.height))
    assert right.getextrema() == ((255, 255), (255, 255), (255, 255))


def test_a_prompt_shows_every_picture_under_one_legend():
    blocks = [[Block(image=0, rows=2, columns=2)], [Block(image=1, rows=2, columns=3)]]
    drawn = draw_prompt([_stripes(), _stripes(60, 40)], blocks, [torch.tensor([0]), torch.tensor([1, 2])], size=120)
    assert drawn.width == 120 + 120 + 3 * MARGIN
    second = drawn.crop((120 + 2 * MARGIN, TOP, 240 + 2 * MARGIN, TOP + 80))
    cells = [second.crop((c * 40 + 4, 4, c * 40 + 36, 36)) for c in range(3)]
    assert _saturation(cells[0]) < 20 < 150 < _saturation(cells[1])
    assert _saturation(cells[2]) > 150


def test_tiles_of_one_picture_are_drawn_apart_and_no_line_crosses_them():
    blocks = [[Block(image=0, rows=1, columns=2, tile=t) for t in range(2)]]
    parents = [0, 0, 0, 3]  # patch 2 (first of tile 1) went into tile 0
    across = draw_prompt([_stripes()], blocks, [[0, 3]], [parents], size=64)
    dropped = draw_prompt([_stripes()], blocks, [[0, 3]], [[0, 0, -1, 3]], size=64)
    assert across.width == 2 * 64 + 3 * MARGIN
    assert ImageChops.difference(across, dropped).getbbox() is None


def test_newline_tokens_count_but_are_not_drawn():
    with_newlines = [[Block(image=0, rows=2, columns=2, newlines=True)]]  # tokens 2 and 5 are newlines
    plain = [[Block(image=0, rows=2, columns=2)]]
    drawn = draw_prompt([_stripes()], with_newlines, [[1, 2, 3]], [[1, 1, 2, 3, -1, -1]])
    assert ImageChops.difference(drawn, draw_prompt([_stripes()], plain, [[1, 2]], [[1, 1, 2, -1]])).getbbox() is None


@pytest.mark.parametrize(
    ("images", "blocks", "kept"),
    [
        ([], [], []),
        ([_stripes()], [], []),
        ([_stripes()], [[Block(image=0, rows=2, columns=2)]], [[4]]),
        ([[_stripes(), _stripes()]], [[Block(image=0, rows=2, columns=2)]], [[0]]),
    ],
)
def test_prompts_that_do_not_match_are_refused(images, blocks, kept):
    with pytest.raises(LayoutError):
        draw_prompt(images, blocks, kept)


def test_a_sheet_places_its_panels_on_a_grid():
    red, blue = Image.new("RGB", (50, 40), "red"), Image.new("RGB", (50, 60), "blue")
    out = sheet([("a", red), ("b", blue), ("c", red)], columns=2, title="three")
    assert out.width == 100
    pixels = [out.getpixel((x, y)) for x in (25, 75) for y in range(out.height)]
    assert (pixels.count((255, 0, 0)), pixels.count((0, 0, 255))) == (80, 60)
    with pytest.raises(InputError, match="at least one panel"):
        sheet([])
