"""Boxes: reading them from answers, units, and overlap worked out by hand."""

from __future__ import annotations

import pytest

from tessella.bench.sets.scoring.boxes import Box, find_box, iou, to_shares


@pytest.mark.parametrize(
    "text, box",
    [
        ("[0.1, 0.2, 0.5, 0.75]", (0.1, 0.2, 0.5, 0.75)),
        ("Here: [12,30,  400,96] and [1, 2, 3, 4]", (12, 30, 400, 96)),  # the first
        ("[-.5, 0, 1, 1]", (-0.5, 0, 1, 1)),
        ("(0.1, 0.2, 0.5, 0.75)", None),
        ("[0.1, 0.2, 0.5]", None),
        ("nowhere", None),
    ],
)
def test_reading_a_box(text: str, box: Box | None) -> None:
    assert find_box(text) == box


def test_units() -> None:
    assert to_shares((0.1, 0.2, 0.5, 1), 640, 480) == (0.1, 0.2, 0.5, 1)
    assert to_shares((64, 48, 320, 480), 640, 480) == (0.1, 0.1, 0.5, 1)
    assert to_shares((100, 200, 500, 1000), 640, 480, thousandths=True) == (0.1, 0.2, 0.5, 1)


@pytest.mark.parametrize(
    "first, second, value",
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),  # 1 of 4 + 4 - 1
        ((0, 0, 4, 2), (0, 0, 2, 2), 0.5),
        ((0, 0, 1, 1), (1, 0, 2, 1), 0),  # an edge in common
        ((2, 2, 0, 0), (0, 0, 2, 2), 0),  # corners swapped
        ((0, 0, 0, 0), (0, 0, 0, 0), 0),
    ],
)
def test_overlap(first: Box, second: Box, value: float) -> None:
    assert iou(first, second) == pytest.approx(value)
