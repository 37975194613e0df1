"""Grids of tokens at other sizes, and pictures: each against what its definition gives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessella.ops.grids import spans
from tessella.ops.pixels import cut_tiles, resized_to
from tessella.ops.resizing import averaged, interpolated, merged, merged_by_line, proportional_shape, spaced

WAYS = [averaged, interpolated, merged, merged_by_line, spaced]


def drawn(rows: int, columns: int, width: int = 5) -> Tensor:
    return torch.randn(rows, columns, width, generator=torch.Generator().manual_seed(rows * 31 + columns))


@given(side=st.integers(1, 40), count=st.integers(1, 900))
def test_square_grids_get_the_rule_of_the_paper(side: int, count: int) -> None:
    root = math.isqrt(count)
    want = (root + 1, root) if (root + 1) * root <= count else (root, root)
    assert proportional_shape(side, side, count) == want


@given(rows=st.integers(1, 60), columns=st.integers(1, 60), count=st.integers(1, 900))
def test_shapes_fit_the_count_in_the_proportions_of_the_grid(rows: int, columns: int, count: int) -> None:
    high, wide = proportional_shape(rows, columns, count)
    assert 1 <= high * wide <= count
    assert high <= math.sqrt(count * rows / columns) + 1
    assert wide <= max(math.sqrt(count * columns / rows), 1)
    assert (high + 1) * (wide + 1) > count or min(high, wide) == 1


@pytest.mark.parametrize("way", WAYS)
@given(rows=st.integers(1, 6), columns=st.integers(1, 6), share=st.floats(0.01, 1))
def test_no_more_tokens_than_the_count(way: object, rows: int, columns: int, share: float) -> None:
    count = max(int(share * rows * columns), 1)
    made = way(drawn(rows, columns), count)  # type: ignore[operator]
    assert made.shape[2] == 5
    assert 1 <= made.shape[0] * made.shape[1] <= count
    if way in (merged, spaced):
        assert made.shape[0] * made.shape[1] == count


@pytest.mark.parametrize("way", [averaged, interpolated, merged_by_line])
def test_a_square_grid_of_its_own_size_stays_as_it_is(way: object) -> None:
    grid = drawn(4, 4)
    torch.testing.assert_close(way(grid, 16), grid)  # type: ignore[operator]


def test_averages_are_means_of_cells() -> None:
    grid = drawn(5, 7)
    made = averaged(grid, 6)
    for r, (top, bottom) in enumerate(spans(5, made.shape[0])):
        for c, (left, right) in enumerate(spans(7, made.shape[1])):
            torch.testing.assert_close(made[r, c], grid[top:bottom, left:right].flatten(0, 1).mean(dim=0))


@pytest.mark.parametrize("count", [6, 30])
def test_interpolation_is_bilinear_between_centres(count: int) -> None:
    grid = drawn(4, 4)
    made = interpolated(grid, count)
    for r in range(made.shape[0]):
        for c in range(made.shape[1]):
            y = min(max((r + 0.5) * 4 / made.shape[0] - 0.5, 0), 3)
            x = min(max((c + 0.5) * 4 / made.shape[1] - 0.5, 0), 3)
            top, left = int(y), int(x)
            down, right = min(top + 1, 3), min(left + 1, 3)
            upper = grid[top, left] * (1 - (x - left)) + grid[top, right] * (x - left)
            lower = grid[down, left] * (1 - (x - left)) + grid[down, right] * (x - left)
            torch.testing.assert_close(made[r, c], upper * (1 - (y - top)) + lower * (y - top), atol=1e-5, rtol=1e-4)


def test_lines_are_merged_within_themselves_and_stay_in_order() -> None:
    """Columns of one value each: what is left of a row ascends, and rows, which are alike, become one."""
    grid = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).expand(4, 4, 2)
    made = merged_by_line(grid, 6)
    assert made.shape == (3, 2, 2)
    assert made.tolist() == [[[1.0, 0.0], [0.0, 1.0]]] * 3


def test_tiles_hold_the_picture_and_zeros_behind_it() -> None:
    picture = torch.randn(3, 5, 7)
    tiles = cut_tiles(picture, 4)
    assert tiles.shape == (2, 2, 3, 4, 4)
    assert torch.equal(tiles[0, 0], picture[:, :4, :4])
    assert torch.equal(tiles[0, 1, :, :, :3], picture[:, :4, 4:])
    assert torch.equal(tiles[1, 0, :, :1], picture[:, 4:, :4])
    assert not tiles[1, :, :, 1:].any()
    assert not tiles[:, 1, :, :, 3:].any()


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    picture = torch.randn(3, 6, 4).bfloat16()
    assert resized_to(picture, 6, 4) is picture
    assert resized_to(picture, 3, 2).dtype == torch.bfloat16
    torch.testing.assert_close(resized_to(torch.ones(3, 9, 7), 3, 20), torch.ones(3, 3, 20))
