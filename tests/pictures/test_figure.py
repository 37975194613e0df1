"""The figure of a reduction: what it counts, what it shows of each step, and the colours of groups."""

from __future__ import annotations

import base64
import io
import itertools
import re

from PIL import Image

from tessella.core.layout import Block
from tessella.pictures.drawing import MARGIN, draw_cut
from tessella.pictures.fates import read_fate
from tessella.pictures.figure import patches_markup, reduction_figure
from tessella.pictures.palette import PALETTE, group_colours
from tessella.pictures.patches import draw_patches
from tessella.pictures.shown import Cut, Shown

PICTURE = Image.new("RGB", (60, 40), (200, 40, 40))
BLOCKS = ((Block(image=0, rows=2, columns=3),),)
FIRST = Cut(0, ((0, 1, 4),), ((0, 1, 1, 0, 4, -1),))
LAST = Cut(2, ((1,),), ((-1, 1, 1, -1, -1, -1),))


def _pictures(markup: str) -> list[Image.Image]:
    found = re.findall(r"data:image/png;base64,([^\"]+)", markup)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_a_method_with_one_cut_has_one_picture_and_the_counts_of_its_patches():
    markup = reduction_figure("a<b", Shown((PICTURE,), BLOCKS, (FIRST,)), "<i>", "3 & more", right=False, size=120)
    [picture] = _pictures(markup)
    assert picture.size == (120, 80)
    assert re.findall(r"</i>(\w+ \d+)</li>", markup) == ["kept 3", "merged 2", "dropped 1"]
    assert 'alt="Patches kept by a&lt;b: 3 kept, 2 merged, 1 dropped"' in markup
    assert "<h2>a&lt;b</h2>" in markup
    assert "<strong>&lt;i&gt;</strong><br>3 &amp; more</figcaption>" in markup
    assert '<span class="differs">✗ wrong:</span>' in markup
    assert 'class="steps"' not in markup


def test_each_of_several_cuts_has_a_small_picture_with_its_layer():
    markup = patches_markup(Shown((PICTURE,), BLOCKS, (FIRST, LAST)), "kept by it", size=300)
    assert [picture.width for picture in _pictures(markup)] == [300, 144, 144]
    assert re.findall(r"<span>([^<]+)</span>", markup) == ["layer 0", "3 kept", "layer 2", "1 kept"]
    assert re.findall(r"</i>(\w+ \d+)</li>", markup) == ["kept 1", "merged 1", "dropped 4"]


def test_several_pictures_of_a_prompt_stand_side_by_side_with_nothing_between():
    cut = Cut(0, ((0,), ()), ((0, -1, -1, -1, -1, -1), (-1,) * 6))
    shown = Shown((PICTURE, PICTURE), (*BLOCKS, (Block(image=1, rows=2, columns=3),)), (cut,))
    drawn = draw_cut(shown, size=120)
    assert drawn.size == (2 * 120 + MARGIN, 80)
    assert [drawn.getpixel((x, 40))[3] for x in (119, 120, 119 + MARGIN, 120 + MARGIN)] == [255, 0, 0, 255]
    assert drawn.getpixel((20, 20)) == (200, 40, 40, 255)


def test_groups_that_touch_differ_in_colour():
    rows, columns = 6, 12
    parents = [r // 2 * 2 * columns + c // 2 * 2 for r in range(rows) for c in range(columns)]  # 18 squares
    fate = read_fate((rows, columns), sorted(set(parents)), parents)
    colours = group_colours(fate)
    assert sorted(colours) == sorted(set(parents))
    for (r, c), (down, right) in itertools.product(
        itertools.product(range(5), range(1, 11)), ((0, 1), (1, 0), (1, -1))
    ):
        one, other = parents[r * columns + c], parents[(r + down) * columns + c + right]
        assert one == other or colours[one] != colours[other]
    assert len(set(colours.values())) == len(PALETTE)


def test_a_kept_patch_that_took_others_in_is_framed_in_their_colour():
    fate = read_fate((1, 3), [0, 2], [0, 0, 2])
    drawn = draw_patches(PICTURE, fate, 180)
    [colour] = group_colours(fate).values()
    frame, inside, other = drawn.getpixel((2, 20)), drawn.getpixel((30, 20)), drawn.getpixel((150, 20))
    assert frame == colour
    assert inside == other == (200, 40, 40)
    tinted = drawn.getpixel((75, 50))
    assert tinted[2] > tinted[0]  # towards the blue of its group
