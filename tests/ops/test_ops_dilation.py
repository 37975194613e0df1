"""Dilation on ragged grids against a slow reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tessella.ops.neighbours import dilate


@given(
    grids=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=3),
    radius=st.sampled_from([0, 1, 1, 2, 7]),
    seed=st.integers(0, 99),
)
def test_dilation_equals_the_reference(grids: list[tuple[int, int]], radius: int, seed: int) -> None:
    """The padding is True and must not reach a token."""
    most = max(r * c for r, c in grids)
    mask = torch.rand(len(grids), most, generator=torch.Generator().manual_seed(seed)) < 0.25
    mask |= torch.arange(most) >= torch.tensor([r * c for r, c in grids])[:, None]
    got = dilate(mask, grids, radius)
    for b, (rows, columns) in enumerate(grids):
        on = [divmod(i, columns) for i in range(rows * columns) if mask[b, i]]
        places = [divmod(i, columns) for i in range(rows * columns)]
        want = [any(abs(r - y) <= radius and abs(c - x) <= radius for y, x in on) for r, c in places]
        assert got[b].tolist() == want + [False] * (most - rows * columns)


@pytest.mark.parametrize("grid", [(1, 12), (12, 1), (4, 6)])
def test_dilation_composes_grows_and_joins(grid: tuple[int, int]) -> None:
    """Twice by one is once by two, nothing is lost, and of a union it is the union."""
    one, other = torch.rand(2, grid[0] * grid[1]).unsqueeze(1) < 0.1
    assert torch.equal(dilate(dilate(one, [grid]), [grid]), dilate(one, [grid], 2))
    assert torch.equal(dilate(one, [grid], 0), one)
    assert torch.equal(dilate(one | other, [grid]), dilate(one, [grid]) | dilate(other, [grid]))
    assert not (one & ~dilate(one, [grid], 3)).any()
    assert not dilate(torch.zeros_like(one), [grid], 3).any()
    assert dilate(torch.ones_like(one), [grid]).all()
