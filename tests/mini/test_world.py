"""Pictures: what is drawn is what the list of objects says."""

from random import Random

import numpy as np
import pytest

from tessella.mini.questions import draw_sample
from tessella.mini.world import (
    COLOURS,
    GAP,
    SHAPES,
    SIDE,
    TEST_DIGITS,
    Spec,
    _digit_bank,
    draw_scene,
    draw_word,
    is_test_word,
)


def test_objects_do_not_overlap_and_lie_inside() -> None:
    rng = Random(11)
    for kind in ("count", "relation", "reading", "place"):
        for _ in range(25):
            scene, _ = draw_sample(kind, rng, "test")
            for index, item in enumerate(scene.items):
                left, top, right, bottom = item.box
                assert 1 <= left < right < SIDE
                assert 1 <= top < bottom < SIDE
                for a, b, c, d in (other.box for other in scene.items[:index]):
                    assert left >= c + GAP or a >= right + GAP or top >= d + GAP or b >= bottom + GAP


def test_a_square_has_its_colour_on_a_dim_ground() -> None:
    for colour, paint in COLOURS.items():
        scene = draw_scene(Random(2), [Spec("shape", colour, shape="square", spot=(40, 60, 40, 60))])
        assert scene is not None
        x, y = (int(v) for v in scene.items[0].centre)
        assert np.abs(scene.pixels[y, x].astype(int) - paint).max() <= 15
        assert scene.pixels[90:, 90:].mean() < 110


def test_spot_bounds_the_centre() -> None:
    for seed in range(30):
        scene = draw_scene(Random(seed), [Spec("shape", "red", shape=SHAPES[seed % 6], spot=(60, 70, 20, 30))])
        assert scene is not None
        x, y = scene.items[0].centre
        assert 60 <= x <= 70
        assert 20 <= y <= 30


def test_what_cannot_fit_is_none() -> None:
    assert draw_scene(Random(0), [Spec("word", "red", text="WWWW", spot=(5, 6, 5, 6))]) is None


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split must be 'train' or 'test'; got 'val'"):
        draw_scene(Random(0), [], split="val")


def test_splits_share_no_digit_picture_and_no_word() -> None:
    train, test = ({image.tobytes() for digit in _digit_bank(split) for image in digit} for split in ("train", "test"))
    assert not train & test
    assert sum(len(digit) for digit in _digit_bank("test")) == TEST_DIGITS
    assert sum(len(digit) for digit in _digit_bank("train")) == 1797 - TEST_DIGITS
    rng = Random(3)
    assert all(is_test_word(draw_word(rng, "test")) for _ in range(200))
    assert not any(is_test_word(draw_word(rng, "train")) for _ in range(200))


def test_letters_lie_in_order_inside_the_word() -> None:
    scene = draw_scene(Random(4), [Spec("word", "white", text="AQIM")])
    assert scene is not None
    (item,) = scene.items
    assert [box[1::2] for box in item.letters] == [item.box[1::2]] * 4
    edges = [x for box in item.letters for x in (box[0], box[2])]
    assert edges == sorted(edges)
    assert (edges[0], edges[-1]) == (item.box[0], item.box[2])
