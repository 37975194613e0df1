"""Shares of a count and the best tokens of each group against slow references, one token after the other."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessella.core.contracts import mask_of
from tessella.ops.allocation import divide_count, group_sizes, picks_by_quota, sums_by_group, take_by_quota

LeftOver = Literal["fraction", "weight"]
Division = tuple[list[list[int]], list[int], list[list[int]]]
both = pytest.mark.parametrize("left_over", ["fraction", "weight"])


@st.composite
def divisions(draw: st.DrawFn) -> Division:
    """Weights, totals and sizes of items with other numbers of groups; the shorter ones are padded with size 0.

    The weights of an item sum to a power of two, so that shares are exact in float32 and equal fractions are equal.
    """
    rows = draw(st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 7)), min_size=1, max_size=6), min_size=1))
    rows = [[*row, (64 - sum(w for w, _ in row), draw(st.integers(1, 7)))] for row in rows]
    most = max(map(len, rows))
    weights = [[w for w, _ in row] + [5] * (most - len(row)) for row in rows]
    sizes = [[n for _, n in row] + [0] * (most - len(row)) for row in rows]
    return weights, [draw(st.integers(0, sum(s))) for s in sizes], sizes


def slow_division(weights: list[int], total: int, sizes: list[int], left_over: LeftOver) -> list[int]:
    """Whole parts, then one by one; what is above a size goes to those with room, by weight times room."""
    weights = [w if n else 0 for w, n in zip(weights, sizes, strict=True)]
    shares = [Fraction(w * total, sum(weights)) for w in weights]
    quota = [int(s) for s in shares]
    first = [s - q for s, q in zip(shares, quota, strict=True)] if left_over == "fraction" else weights
    for g in sorted(range(len(sizes)), key=lambda g: (-first[g], g))[: total - sum(quota)]:
        quota[g] += 1
    quota = [min(q, n) for q, n in zip(quota, sizes, strict=True)]
    surplus = total - sum(quota)
    product = [w * (n - q) for w, n, q in zip(weights, sizes, quota, strict=True)]
    more = [int(Fraction(surplus * p, max(sum(product), 1))) for p in product]
    quota = [min(q + m, n) for q, m, n in zip(quota, more, sizes, strict=True)]
    while sum(quota) < total:
        room = [n - q for n, q in zip(sizes, quota, strict=True)]
        quota[max((g for g, r in enumerate(room) if r), key=lambda g: (weights[g] * room[g], room[g], -g))] += 1
    return quota


def divide(weights: list[list[int]], totals: list[int], sizes: list[list[int]], left_over: LeftOver) -> list[list[int]]:
    return divide_count(torch.tensor(weights).float(), totals, torch.tensor(sizes), left_over).tolist()


@both
@given(division=divisions())
def test_division_equals_the_reference(division: Division, left_over: LeftOver) -> None:
    rows = zip(*division, strict=True)
    assert divide(*division, left_over) == [slow_division(w, t, s, left_over) for w, t, s in rows]


@both
@given(data=st.data(), groups=st.integers(1, 9))
def test_divisions_sum_to_their_totals_within_the_sizes(data: st.DataObject, groups: int, left_over: LeftOver) -> None:
    """Whatever the weights: skewed by nine orders of magnitude, all zero or negative."""
    powers = data.draw(st.lists(st.integers(-9, 9), min_size=groups, max_size=groups))
    sizes = torch.tensor([data.draw(st.lists(st.integers(0, 40), min_size=groups, max_size=groups))])
    total = data.draw(st.integers(0, int(sizes.sum())))
    for weights in (10.0 ** torch.tensor([powers]), torch.zeros(1, groups), -torch.ones(1, groups)):
        quota = divide_count(weights.float(), (total,), sizes, left_over)
        assert quota.sum() == total
        assert bool(((quota >= 0) & (quota <= sizes)).all())


@both
@given(data=st.data(), groups=st.integers(2, 7))
def test_a_larger_weight_never_gets_less(data: st.DataObject, groups: int, left_over: LeftOver) -> None:
    """Among groups of one size, and the more the larger the total is."""
    weights = sorted(data.draw(st.lists(st.integers(0, 30), min_size=groups, max_size=groups)))
    total, size = data.draw(st.integers(0, groups * 9)), 9
    quota = divide([weights], [total], [[size] * groups], left_over)[0]
    by_weight: dict[int, list[int]] = {}
    for weight, count in zip(weights, quota, strict=True):
        by_weight.setdefault(weight, []).append(count)
    assert all(max(a) - min(a) <= 1 and a == sorted(a, reverse=True) for a in by_weight.values())
    ends = [(min(a), max(a)) for a in by_weight.values()]
    assert all(low <= high for (low, _), (_, high) in pairwise(ends))


def test_what_is_left_over_goes_by_fraction_or_by_weight() -> None:
    """Shares 4.5, 2.7 and 1.8: one token more for the largest fraction is the third's, for the largest weight not."""
    assert divide([[5, 3, 2]], [9], [[9, 9, 9]], "fraction") == [[4, 3, 2]]
    assert divide([[5, 3, 2]], [9], [[9, 9, 9]], "weight") == [[5, 3, 1]]
    assert divide([[1, 1, 1]], [2], [[4, 4, 4]], "fraction") == [[1, 1, 0]]  # ties: the lower group
    assert divide([[-4, 3, 1]], [4], [[9, 9, 9]], "fraction") == [[0, 3, 1]]  # a negative weight is none


def test_weightless_groups_are_filled_evenly_once_the_others_are_full() -> None:
    assert divide([[0, 7, 0, 0]], [13], [[4, 4, 6, 0]], "weight") == [[4, 4, 5, 0]]
    assert divide([[0, 7, 0]], [7], [[4, 4, 4]], "weight") == [[2, 4, 1]]
    assert divide([[0, 0, 0]], [6], [[2, 4, 6]], "fraction") == [[1, 2, 3]]  # by size


# -- the best of each group ------------------------------------------------------------------------------------------


@given(data=st.data(), counts=st.lists(st.integers(1, 12), min_size=1, max_size=3), groups=st.integers(1, 4))
def test_picks_equal_the_reference(data: st.DataObject, counts: list[int], groups: int) -> None:
    """Few different scores, so that ties are common; quotas may be more than there are."""
    most = max(counts)

    def draw(low: int, high: int, width: int) -> Tensor:
        return torch.tensor(
            [data.draw(st.lists(st.integers(low, high), min_size=width, max_size=width)) for _ in counts]
        )

    scores, group, quota = draw(0, 3, most).float(), draw(-1, groups - 1, most), draw(0, 5, groups)
    mask = torch.arange(most) < torch.tensor(counts)[:, None]
    got = picks_by_quota(scores, group, quota, mask, most)
    for b, there in enumerate(counts):
        expected = []
        for g in range(groups):
            mine = [i for i in range(there) if group[b, i] == g]
            expected += sorted(mine, key=lambda i: (-float(scores[b, i]), i))[: int(quota[b, g])]
        assert got[b].tolist() == expected + [-1] * (most - len(expected))
    assert torch.equal(take_by_quota(scores, group, quota, mask), mask_of(got, most))
    wider = picks_by_quota(scores, group, quota, mask, most + 2)
    assert torch.equal(wider, torch.nn.functional.pad(got, (0, 2), value=-1))


def test_scores_of_any_sign_and_type_rank_alike() -> None:
    scores = torch.tensor([[-3.0, -1.0, -2.0, 7.0]])
    group, mask = torch.tensor([[0, 0, 0, 0]]), torch.tensor([[True, True, True, False]])
    for dtype in (torch.float32, torch.bfloat16):
        assert picks_by_quota(scores.to(dtype), group, torch.tensor([[2]]), mask, 2).tolist() == [[1, 2]]


@given(data=st.data(), n=st.integers(1, 12))
def test_sizes_and_sums_equal_the_reference(data: st.DataObject, n: int) -> None:
    group = torch.tensor([data.draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n)) for _ in range(2)])
    values = torch.randn(2, n)
    sizes, sums = group_sizes(group, 4), sums_by_group(values, group, 4)
    for b in range(2):
        for g in range(4):
            mine = [float(v) for v, of in zip(values[b], group[b], strict=True) if of == g]
            assert sizes[b, g] == len(mine)
            assert float(sums[b, g]) == pytest.approx(sum(mine), abs=1e-5)


def test_padding_that_is_not_a_number_adds_nothing() -> None:
    values, group = torch.tensor([[1.0, torch.nan]]), torch.tensor([[0, -1]])
    assert sums_by_group(values, group, 1).tolist() == [[1.0]]
