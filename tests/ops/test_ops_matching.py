"""Bipartite matching against a reference that pairs and merges tokens one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessella.ops.matching import match_halves, merge_pairs, merge_to


def merged_slowly(tokens: Tensor, num_pairs: int) -> tuple[Tensor, list[int]]:
    """One round on tokens `[N, C]` in float64, and the place of each token that is left."""
    unit = torch.nn.functional.normalize(tokens.double(), dim=1)
    pairs = []
    for even in range(0, len(tokens), 2):
        alike = [(float(unit[even] @ unit[odd]), -odd) for odd in range(1, len(tokens), 2)]
        if alike:
            best, odd = max(alike)
            pairs.append((-best, even, -odd))
    pairs.sort()
    groups = {odd: [odd] for odd in range(1, len(tokens), 2)}
    for _, even, odd in pairs[:num_pairs]:
        groups[odd].append(even)
    alone = [even for _, even, _ in pairs[num_pairs:]]
    means = [tokens.double()[group].mean(dim=0) for group in groups.values()]
    return torch.stack([*tokens.double()[alone], *means]), [*alone, *groups]


def drawn(batch: int, count: int, width: int = 6) -> Tensor:
    return torch.randn(batch, count, width, generator=torch.Generator().manual_seed(100 * count + batch))


@given(batch=st.integers(1, 3), count=st.integers(2, 11), share=st.floats(0, 1))
def test_a_round_equals_the_reference(batch: int, count: int, share: float) -> None:
    tokens = drawn(batch, count)
    num_pairs = int(share * (count // 2))
    merged, places = merge_pairs(tokens, num_pairs)
    assert merged.shape == (batch, count - num_pairs, 6)
    for b in range(batch):
        if num_pairs == 0:
            assert torch.equal(merged[b], tokens[b])
            assert places[b].tolist() == list(range(count))
            continue
        want, where = merged_slowly(tokens[b], num_pairs)
        torch.testing.assert_close(merged[b].double(), want, atol=1e-5, rtol=1e-5)
        assert places[b].tolist() == where


@given(count=st.integers(2, 12))
def test_pairs_are_alternating_tokens_each_once(count: int) -> None:
    going, into, left = match_halves(drawn(2, count), count // 2 - count // 4)
    for g, i, rest in zip(going.tolist(), into.tolist(), left.tolist(), strict=True):
        assert sorted(g + rest) == list(range(0, count, 2))
        assert all(place % 2 == 1 for place in i)


def test_the_most_similar_pairs_go_first_and_the_earlier_of_equal_ones() -> None:
    tokens = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [0.0, 1.0], [3.0, 0.1]]])
    going, into, left = match_halves(tokens, 2)
    assert (going.tolist(), into.tolist(), left.tolist()) == ([[0, 2]], [[1, 3]], [[4]])


@given(count=st.integers(1, 20), left=st.integers(1, 20))
def test_rounds_go_on_until_so_many_are_left(count: int, left: int) -> None:
    left = min(left, count)
    tokens = drawn(2, count)
    merged, places = merge_to(tokens, left)
    assert merged.shape == (2, left, 6)
    assert all(len(set(row)) == left and set(row) <= set(range(count)) for row in places.tolist())
    want, where = tokens[0].double(), list(range(count))
    while len(want) > left:
        want, here = merged_slowly(want, min(len(want) // 2, len(want) - left))
        where = [where[i] for i in here]
    torch.testing.assert_close(merged[0].double(), want, atol=1e-4, rtol=1e-4)
    assert places[0].tolist() == where


def test_mass_is_conserved_where_each_token_weighs_the_same() -> None:
    """A round that halves an even number, each token into one of its own, keeps the mean."""
    tokens = drawn(1, 4).repeat_interleave(2, dim=1)  # neighbours are twins
    merged, _ = merge_pairs(tokens, 4)
    torch.testing.assert_close(merged.mean(dim=1), tokens.mean(dim=1))


def test_an_item_gives_the_same_alone() -> None:
    tokens = drawn(3, 9)
    together, places = merge_to(tokens, 3)
    for b in range(3):
        alone, where = merge_to(tokens[b : b + 1], 3)
        torch.testing.assert_close(alone[0], together[b])
        assert torch.equal(where[0], places[b])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_zero_and_equal_tokens_and_low_precision_are_merged_in_float32(dtype: torch.dtype) -> None:
    merged, places = merge_to(torch.zeros(1, 6, 4, dtype=dtype), 2)
    assert merged.dtype == torch.float32
    assert merged.tolist() == [[[0.0] * 4] * 2]
    ones, _ = merge_to(torch.ones(1, 7, 4, dtype=dtype), 1)
    assert ones.tolist() == [[[1.0] * 4]]
    assert places.shape == (1, 2)
