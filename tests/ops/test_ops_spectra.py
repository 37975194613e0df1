"""Effective rank and entropy against their definitions, and what may not change them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessella.core.errors import MethodError
from tessella.ops.spectra import RANK_METHODS, effective_rank, entropy

SIZES = st.lists(st.integers(2, 30), min_size=1, max_size=3)


def slow_effective_rank(vectors: Tensor, participation: bool = False) -> float:
    """From the definition, for vectors [N, C] without padding: one singular value after the other."""
    centred = vectors.double() - vectors.double().mean(dim=0)
    values = [float(v) for v in torch.linalg.svd(centred).S if v > 1e-10]
    if participation:
        return sum(v**2 for v in values) ** 2 / sum(v**4 for v in values)
    return math.exp(-sum(v / sum(values) * math.log(v / sum(values)) for v in values))


def slow_entropy(weights: list[float]) -> float:
    return -sum(w / sum(weights) * math.log(w / sum(weights)) for w in weights if w > 0)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def ragged(there: list[int], width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Vectors of items of several sizes and their mask; padding holds loud values."""
    vectors = drawn(seed, len(there), max(there), width)
    mask = torch.arange(max(there)) < torch.tensor(there)[:, None]
    return vectors.masked_fill(~mask[:, :, None], 50.0), mask


@given(there=SIZES, width=st.sampled_from([1, 5, 40]), seed=st.integers(0, 999), by=st.sampled_from(RANK_METHODS))
def test_effective_rank_equals_the_definition_on_ragged_items(there: list[int], width: int, seed: int, by: str) -> None:
    vectors, mask = ragged(there, width, seed)
    want = [slow_effective_rank(v[:n], by == "participation") for v, n in zip(vectors, there, strict=True)]
    got = effective_rank(vectors, mask, by)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64), rtol=1e-6, atol=0)
    assert all(1 - 1e-9 <= r <= max(1, min(n - 1, width)) + 1e-9 for r, n in zip(got.tolist(), there, strict=True))


@given(seed=st.integers(0, 999), scale=st.floats(0.01, 100), offset=st.floats(-9, 9), by=st.sampled_from(RANK_METHODS))
def test_effective_rank_ignores_order_scale_place_and_rotation(seed: int, scale: float, offset: float, by: str) -> None:
    vectors = drawn(seed, 1, 12, 7).double()
    turned = torch.linalg.qr(drawn(seed + 1, 7, 7).double()).Q
    moved = scale * (vectors[:, torch.randperm(12)] @ turned) + offset
    torch.testing.assert_close(effective_rank(moved, by=by), effective_rank(vectors, by=by), rtol=1e-6, atol=0)


@pytest.mark.parametrize("by", RANK_METHODS)
def test_effective_rank_of_known_sets(by: str) -> None:
    simplex, line = torch.eye(9)[None], torch.linspace(0, 1, 9)[None, :, None] * torch.ones(4)
    assert effective_rank(simplex, by=by).item() == pytest.approx(8)
    assert effective_rank(line, by=by).item() == pytest.approx(1)
    assert effective_rank(torch.full((2, 9, 4), 0.3), by=by).tolist() == [1, 1]  # no direction at all
    assert effective_rank(torch.ones(1, 1, 4), by=by).tolist() == [1]
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    assert effective_rank(torch.ones(1, 3, 4), nothing, by).tolist() == [1]


@pytest.mark.parametrize("by", ["gram", "svd"])
def test_more_vectors_than_channels_add_no_noise(by: str) -> None:
    """An N x N Gram matrix in float32 is about 1 % off here: the roots of rounding errors count as directions."""
    vectors = drawn(0, 1, 400, 12) + 4
    want = slow_effective_rank(vectors[0])
    assert effective_rank(vectors, by=by).item() == pytest.approx(want, rel=1e-9)
    centred = vectors[0] - vectors[0].mean(dim=0)
    values = torch.linalg.eigvalsh(centred @ centred.T).clamp(min=1e-12).sqrt()
    assert entropy(values[None]).exp().item() > want * 1.005


def test_effective_rank_in_half_precision_and_of_another_kind() -> None:
    vectors = drawn(1, 2, 20, 6).bfloat16()
    assert torch.equal(effective_rank(vectors), effective_rank(vectors.float()))
    before = vectors.clone()
    effective_rank(vectors.float())
    assert torch.equal(vectors, before)
    with pytest.raises(MethodError, match="taken by one of gram, svd, participation; got 'qr'"):
        effective_rank(vectors, by="qr")


def test_inputs_are_not_centred_in_place() -> None:
    vectors = drawn(2, 1, 6, 3).double()
    before = vectors.clone()
    for by in RANK_METHODS:
        effective_rank(vectors, by=by)
    assert torch.equal(vectors, before)


@given(st.lists(st.lists(st.floats(0, 5), min_size=1, max_size=8), min_size=1, max_size=3), st.floats(0.1, 9))
def test_entropy_equals_the_definition_on_ragged_items(rows: list[list[float]], scale: float) -> None:
    rows = [[w if w > 1e-6 else 0.0 for w in row] for row in rows]
    widest = max(map(len, rows))
    weights = torch.tensor([row + [7.0] * (widest - len(row)) for row in rows])
    mask = torch.arange(widest) < torch.tensor([len(row) for row in rows])[:, None]
    want = torch.tensor([slow_entropy(row) if sum(row) else 0.0 for row in rows])
    torch.testing.assert_close(entropy(weights, mask), want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy(weights * scale, mask), want, rtol=1e-5, atol=1e-5)


def test_entropy_of_known_weights() -> None:
    weights = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [2, 2, 0, 0]])
    torch.testing.assert_close(entropy(weights), torch.tensor([0, math.log(4), 0, math.log(2)]))
    assert entropy(weights.bfloat16()).dtype == torch.float32
    assert entropy(weights.double()).dtype == torch.float64
