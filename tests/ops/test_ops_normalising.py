"""Normalising scores against slow float64 references, on ragged batches with loud padding."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessella.ops.normalising import geometric_blend, min_max, quantile_range, rank_share, softmax

LOUD = 1e6
rows = st.lists(st.lists(st.integers(-4, 4), min_size=1, max_size=9), min_size=1, max_size=3)
SAME = torch.full((1, 4), 7.0)
ALL = torch.ones(1, 4, dtype=torch.bool)


def ragged(values: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Values / 3 padded with loud ones of either sign, and their mask."""
    most = max(map(len, values))
    loud = [LOUD * (-1) ** len(row) for row in values]
    padded = torch.tensor([[v / 3 for v in r] + [x] * (most - len(r)) for r, x in zip(values, loud, strict=True)])
    return padded, torch.arange(most) < torch.tensor([len(r) for r in values])[:, None]


def held(got: Tensor, want: list[list[float]]) -> None:
    """Equal where tokens are real, zero in the padding."""
    assert got.dtype == torch.float32
    for row, expected in zip(got.tolist(), want, strict=True):
        assert row[: len(expected)] == pytest.approx(expected, abs=2e-6)
        assert row[len(expected) :] == [0.0] * (len(row) - len(expected))


@given(values=rows, eps=st.sampled_from([0.0, 1e-6, 0.5]))
def test_min_max_equals_the_reference(values: list[list[int]], eps: float) -> None:
    want = []
    for row in values:
        x = [v / 3 for v in row]
        span = max(x) - min(x) + eps
        want.append([(v - min(x)) / span if span else 0.0 for v in x])
    held(min_max(*ragged(values), eps), want)


@given(values=rows, low=st.sampled_from([0.0, 0.125, 0.25]), high=st.sampled_from([0.75, 0.875, 1.0]))
def test_quantile_range_equals_numpy(values: list[list[int]], low: float, high: float) -> None:
    """Whole numbers and eighths, so that both find the same quantiles to the bit."""
    want = []
    for row in values:
        bottom, top = np.quantile(row, [low, high])
        inside = [(v - bottom) / (top - bottom) if top > bottom else float(v > top) for v in row]
        want.append([min(max(v, 0.0), 1.0) for v in inside])
    padded, mask = ragged(values)
    held(quantile_range((padded * 3).round(), mask, low, high), want)


@given(values=rows)
def test_rank_share_equals_the_reference(values: list[list[int]]) -> None:
    """By counting: half of the others that are equal, and all that are lower."""
    want = []
    for row in values:
        n = len(row) - 1
        places = [sum(o < v for o in row) + (sum(o == v for o in row) - 1) / 2 for v in row]
        want.append([p / n if n else 0.5 for p in places])
    held(rank_share(*ragged(values)), want)


@given(values=rows, temperature=st.sampled_from([0.01, 0.5, 1.0, 20.0]))
def test_softmax_equals_the_reference(values: list[list[int]], temperature: float) -> None:
    want = []
    for row in values:
        weights = [math.exp((v - max(row)) / 3 / temperature) for v in row]
        want.append([w / sum(weights) for w in weights])
    held(softmax(*ragged(values), temperature), want)


def test_softmax_over_another_mask_and_without_any() -> None:
    """A mask of keys serves every row; a row that has none is zeros at any temperature, not uniform."""
    seen = torch.tensor([[[True, False, True]], [[False, False, False]]])
    got = softmax(torch.tensor([[[0.0, 9.0, 0.0]] * 2] * 2), seen, 0.01)
    assert got.tolist() == [[[0.5, 0.0, 0.5]] * 2, [[0.0, 0.0, 0.0]] * 2]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_geometric_blend_equals_the_reference(share: float) -> None:
    first, second = torch.rand(2, 20), torch.rand(2, 20)
    first[:, 0], second[0, 1] = 0.0, -3.0
    got = geometric_blend(first, second, share, floor=1e-3)
    a, b = (v.double().clamp(min=1e-3) for v in (first, second))
    torch.testing.assert_close(got.double(), a ** (1 - share) * b**share, rtol=1e-5, atol=0)


def test_zero_variance_is_sane() -> None:
    assert min_max(SAME, ALL).tolist() == [[0.0] * 4]
    assert quantile_range(SAME, ALL, 0.1, 0.9).tolist() == [[0.0] * 4]
    assert rank_share(SAME, ALL).tolist() == [[0.5] * 4]
    assert softmax(SAME, ALL).tolist() == [[0.25] * 4]
    tiny = torch.tensor([[0.0, 2.0, 3.0, 4.0]]) * 1e-20  # little variance is not none
    torch.testing.assert_close(min_max(tiny, ALL), torch.tensor([[0.0, 0.5, 0.75, 1.0]]))


@pytest.mark.parametrize("scale", [min_max, partial(quantile_range, low=0.1, high=0.8), rank_share, softmax])
def test_order_is_kept_and_followed(scale: Callable[..., Tensor]) -> None:
    """Higher stays higher or equal, permuting tokens permutes results, and bfloat16 is read in float32."""
    values, order = torch.randn(1, 30).bfloat16(), torch.randperm(30)
    mask = torch.ones(1, 30, dtype=torch.bool)
    got = scale(values, mask)
    assert (got[0, values[0].argsort()].diff() >= 0).all()
    torch.testing.assert_close(scale(values[:, order], mask), got[:, order])
    assert torch.equal(scale(values.float(), mask), got)
