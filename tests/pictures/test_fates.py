"""Panels of a mosaic: tokens of all its tiles in one grid, newlines passed over, thumbnails apart."""

from __future__ import annotations

import pytest
from PIL import Image, ImageChops

from tessella.core.errors import LayoutError
from tessella.core.layout import THUMBNAIL, Block
from tessella.pictures.drawing import MARGIN, draw_prompt
from tessella.pictures.fates import Panel, panels_of, split_fates

THUMB = Block(0, 1, 2, role=THUMBNAIL)
# a mosaic of 2 x 3 tokens: a tile of two columns, and one of one column that ends with newlines
LEFT, RIGHT = Block(0, 2, 2, tile=1, top=0), Block(0, 2, 1, tile=2, top=0, left=2, newlines=True)
LAST = Block(0, 1, 0, frame=0, newlines=True)


def test_tiles_of_a_mosaic_are_one_panel():
    assert panels_of([THUMB, LEFT, RIGHT, LAST]) == [Panel((THUMB,)), Panel((LEFT, RIGHT))]
    frames = [Block(0, 2, 2, frame=f) for f in range(2)]
    assert panels_of(frames) == [Panel((frames[0],)), Panel((frames[1],))]
    mosaic = Panel((LEFT, RIGHT))
    assert (mosaic.rows, mosaic.columns) == (2, 3)
    assert (mosaic.patches(LEFT), mosaic.patches(RIGHT)) == ([0, 1, 3, 4], [2, -1, 5, -1])


def test_indices_count_through_the_blocks():
    """Tokens 0 and 1 are the thumbnail, 2 to 5 the left tile, 6 and 8 the right one, 7 and 9 newlines, 10 the last."""
    kept = [0, 3, 6, 7, 10]
    parents = [0, 0, 3, 3, 6, 0, 6, 7, 3, 7, 10]
    thumbnail, mosaic = split_fates([THUMB, LEFT, RIGHT, LAST], kept, parents)
    assert thumbnail.parent == (0, 0)
    assert (mosaic.rows, mosaic.columns) == (2, 3)
    # raster order: tokens 2, 3, 6 then 4, 5, 8; token 5 went into the thumbnail, which counts as dropped here
    assert mosaic.parent == (1, 1, 2, 2, -1, 1)
    assert (mosaic.kept, mosaic.merged, mosaic.dropped) == ((1, 2), (0, 3, 5), (4,))
    with pytest.raises(LayoutError, match="hold 11 tokens"):
        split_fates([THUMB, LEFT, RIGHT, LAST], [11], None)


def test_a_mosaic_is_put_together_from_its_tiles():
    red, blue = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (10, 20), "blue")
    whole = Panel((LEFT, RIGHT)).put_together([red, blue])
    assert whole.size == (30, 20)
    assert [whole.getpixel((x, 10)) for x in (0, 19, 20, 29)] == [(255, 0, 0)] * 2 + [(0, 0, 255)] * 2
    larger = Panel((LEFT, RIGHT)).put_together([red, blue.resize((40, 80))])
    assert larger.size == (3 * 40, 2 * 40)
    assert [larger.getpixel((x, 10)) for x in (79, 80)] == [(255, 0, 0), (0, 0, 255)]


def test_a_thumbnail_is_drawn_smaller_beside_its_mosaic():
    red, blue = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (10, 20), "blue")
    blocks, kept = [[THUMB, LEFT, RIGHT]], [list(range(10))]
    drawn = draw_prompt([[Image.new("RGB", (20, 10), "green"), red, blue]], blocks, kept, size=120)
    assert drawn.width == 60 + 120 + 3 * MARGIN
    mosaic = 60 + 2 * MARGIN  # where it begins
    colours = [drawn.getpixel((x, MARGIN // 2 + 10)) for x in (MARGIN + 10, mosaic + 10, mosaic + 110)]
    assert colours == [(0, 128, 0), (255, 0, 0), (0, 0, 255)]
    whole = Image.new("RGB", (30, 20), "red")
    whole.paste("blue", (20, 0, 30, 20))
    mine = draw_prompt([whole], blocks, kept, size=120)
    box = (mosaic, 0, mosaic + 120, drawn.height)
    assert ImageChops.difference(mine.crop(box), drawn.crop(box)).getbbox() is None


def test_images_of_several_panels_begin_a_row():
    def width_and_height(*counts: int) -> tuple[int, int]:
        blocks = [[Block(i, 1, 1, tile=t) for t in range(n)] for i, n in enumerate(counts)]
        images = [[Image.new("RGB", (10, 10))] * n for n in counts]
        drawn = draw_prompt(images, blocks, [list(range(n)) for n in counts], size=100)
        return round((drawn.width - MARGIN) / (60 + MARGIN)), drawn.height // (60 + MARGIN)

    assert width_and_height(2, 2) == (4, 1)
    assert width_and_height(3, 3) == (3, 2)
    assert width_and_height(1, 1, 1, 1, 1) == (4, 2)
    assert width_and_height(5, 1) == (4, 2)


def test_as_many_pictures_as_grids():
    with pytest.raises(LayoutError, match="image 0 has 3 blocks, but 2 pictures were given for it"):
        draw_prompt([[Image.new("RGB", (9, 9))] * 2], [[THUMB, LEFT, RIGHT]], [[0]])
