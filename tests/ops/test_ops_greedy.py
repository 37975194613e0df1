"""What is built on the greedy loop against slow references that compute everything anew for each pick."""

from __future__ import annotations

import itertools
import math

import pytest
import slow
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessella.ops import greedy
from tessella.ops.greedy import cover_most, farthest_first, max_sum
from tessella.ops.similarity import normalize

sizes = st.lists(st.integers(1, 12), min_size=1, max_size=3)
seeds = st.integers(0, 999)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ragged(there: list[int]) -> Tensor:
    return torch.arange(max(there)) < torch.tensor(there)[:, None]


def loud(unit: Tensor, mask: Tensor) -> Tensor:
    """Padding that whoever reads it would pick first."""
    return torch.where(mask[:, :, None], unit, -50.0)


def rows_of(picks: Tensor) -> list[list[int]]:
    return [[i for i in row if i >= 0] for row in picks.tolist()]


# -- spreading -------------------------------------------------------------------------------------------------------


@given(there=sizes, seed=seeds, given_first=st.booleans(), data=st.data())
def test_farthest_first_equals_the_reference(
    there: list[int], seed: int, given_first: bool, data: st.DataObject
) -> None:
    tokens, weight = drawn(seed, len(there), max(there), 5), drawn(seed + 1, len(there), max(there)).abs()
    mask, unit = ragged(there), torch.nn.functional.normalize(tokens, dim=2)
    keep = [data.draw(st.integers(0, n)) for n in there]
    first = [data.draw(st.integers(0, n - 1)) for n in there] if given_first else None
    firsts = None if first is None else torch.tensor(first)
    for weighted in (False, True):
        want = [
            slow.spread(tokens[b, :n], k, first and first[b], weight[b, :n] if weighted else None)
            for b, (n, k) in enumerate(zip(there, keep, strict=True))
        ]
        weights = torch.where(mask, weight, 99.0) if weighted else None
        assert rows_of(farthest_first(loud(unit, mask), keep, mask, firsts, weights)) == want
        distances = greedy.distance(unit, unit)
        assert rows_of(farthest_first(unit, keep, mask, firsts, weights, distances)) == want


@given(there=sizes, seed=seeds, given_first=st.booleans(), data=st.data())
def test_max_sum_equals_the_reference(there: list[int], seed: int, given_first: bool, data: st.DataObject) -> None:
    tokens, mask = drawn(seed, len(there), max(there), 5), ragged(there)
    unit = torch.nn.functional.normalize(tokens, dim=2)
    keep = [data.draw(st.integers(0, n)) for n in there]
    first = [data.draw(st.integers(0, n - 1)) for n in there] if given_first else [0] * len(there)
    want = [
        slow.spread(tokens[b, :n], k, first[b], total=True) for b, (n, k) in enumerate(zip(there, keep, strict=True))
    ]
    assert rows_of(max_sum(loud(unit, mask), keep, mask, torch.tensor(first) if given_first else None)) == want


def test_max_sum_is_not_max_min() -> None:
    """Two copies of the farthest outlier: a sum takes both at once, the nearest distance takes the second one last."""
    angle = torch.tensor([[0.0, 0.4, 0.8, 3.0, 3.0]])
    unit = torch.stack([angle.cos(), angle.sin()], dim=2)
    mask, first = torch.ones(1, 5, dtype=torch.bool), torch.tensor([0])
    assert max_sum(unit, (3,), mask, first).tolist() == [[0, 3, 4]]
    assert farthest_first(unit, (5,), mask, first).tolist() == [[0, 3, 2, 1, 4]]


def test_weight_of_zero_comes_last() -> None:
    unit = normalize(torch.randn(1, 9, 4))
    weight = torch.ones(1, 9)
    weight[0, 4] = 0
    assert farthest_first(unit, (9,), torch.ones(1, 9, dtype=torch.bool), weight=weight)[0, -1] == 4


def test_forbidden_first_pick_is_not_taken() -> None:
    unit, mask = normalize(torch.randn(1, 6, 4)), torch.tensor([[True, False, True, True, True, True]])
    for pick in (farthest_first, max_sum):
        assert sorted(pick(unit, (5,), mask, torch.tensor([1]))[0].tolist()) == [0, 2, 3, 4, 5]


@given(seed=seeds)
def test_permuting_tokens_permutes_the_spread(seed: int) -> None:
    unit = torch.nn.functional.normalize(drawn(seed, 1, 15, 6), dim=2)
    order, mask = torch.randperm(15), torch.ones(1, 15, dtype=torch.bool)
    first = torch.tensor([3])
    for pick in (farthest_first, max_sum):
        moved = pick(unit[:, order], (7,), mask, (order == 3).nonzero()[0])
        assert torch.equal(order[moved], pick(unit, (7,), mask, first))


# -- coverage --------------------------------------------------------------------------------------------------------


@given(there=sizes, targets=st.integers(0, 7), seed=seeds, block=st.sampled_from((None, 1, 5)), data=st.data())
def test_coverage_equals_the_reference(
    there: list[int], targets: int, seed: int, block: int | None, data: st.DataObject
) -> None:
    """Few different values, so that ties are common; a tie is the earlier token's."""
    worth, mask = (drawn(seed, len(there), max(there), targets).abs() * 2).round() / 2, ragged(there)
    keep = [data.draw(st.integers(0, n)) for n in there]
    want = [slow.coverage(worth[b, :n], k) for b, (n, k) in enumerate(zip(there, keep, strict=True))]
    assert rows_of(cover_most(torch.where(mask[:, :, None], worth, 50.0), keep, mask, block)) == want


def test_coverage_splits_large_worths(monkeypatch: pytest.MonkeyPatch) -> None:
    worth, mask = torch.rand(2, 40, 30), torch.ones(2, 40, dtype=torch.bool)
    want = cover_most(worth, (20, 7), mask)
    monkeypatch.setattr(greedy, "CPU_BLOCK_ELEMENTS", 7 * 60)  # 7 tokens at once
    assert torch.equal(cover_most(worth, (20, 7), mask), want)


@given(seed=seeds, count=st.integers(1, 12), keep=st.integers(1, 3))
def test_coverage_is_near_the_best(seed: int, count: int, keep: int) -> None:
    """Submodular: gains never grow, and greedy reaches 1 - 1/e of what any set of that size reaches."""
    keep, worth = min(keep, count), drawn(seed, count, 8).abs()
    picks = cover_most(worth[None], (count,), torch.ones(1, count, dtype=torch.bool))[0].tolist()
    covered = [worth[picks[: n + 1]].amax(dim=0).sum().item() for n in range(count)]
    gains = [b - a for a, b in itertools.pairwise([0.0, *covered])]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(gains))
    best = max(worth[list(s)].amax(dim=0).sum().item() for s in itertools.combinations(range(count), keep))
    assert covered[keep - 1] >= (1 - 1 / math.e) * best
