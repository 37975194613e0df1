"""Shapes of schedules: their ends, the published ones among them, and that none grows with depth."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessella.core.schedules import SHAPES, left_at


def test_the_pyramid_is_that_of_pyramiddrop() -> None:
    assert [left_at("pyramid", layer, 24, 576, 72) for layer in (8, 16, 24)] == [288, 144, 72]


def test_the_quadratic_is_that_of_adatoken3d() -> None:
    first, last, depth = 1659, 166, 32
    for x in range(1, depth + 1):
        want = first - (first - last) * ((x - 1) / (depth - 1)) ** 2
        assert left_at("quadratic", x - 1, depth - 1, first, last) == round(want)


def test_linear_and_cosine_by_hand() -> None:
    assert [left_at("linear", layer, 4, 100, 20) for layer in (1, 2, 3, 4)] == [80, 60, 40, 20]
    assert [left_at("cosine", layer, 4, 100, 20) for layer in (1, 2, 3, 4)] == [
        round(20 + 80 * (1 + math.cos(math.pi * d)) / 2) for d in (0.25, 0.5, 0.75, 1)
    ]


@pytest.mark.parametrize("shape", SHAPES)
@given(first=st.integers(0, 3000), data=st.data(), last_layer=st.integers(1, 40))
def test_a_way_leads_down_from_everything_to_the_last(
    shape: str, first: int, data: st.DataObject, last_layer: int
) -> None:
    last = data.draw(st.integers(0, first))
    way = [left_at(shape, layer, last_layer, first, last) for layer in range(last_layer + 1)]
    assert way == sorted(way, reverse=True)
    assert (way[0], way[-1]) == (first, last)
