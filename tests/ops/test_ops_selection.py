"""Similarity, top indices, the greedy loop, neighbours, merging and draws against slow references."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessella.core.budget import Counts
from tessella.core.contracts import keep_highest, mask_of
from tessella.ops.draws import group_of, philox_uniforms, sample_id_of
from tessella.ops.greedy import pick_greedily
from tessella.ops.merging import assignment_weights, merge_by_mean
from tessella.ops.neighbours import with_neighbours
from tessella.ops.selection import mask_indices, top_indices
from tessella.ops.similarity import cosine_similarity, normalize

grids = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 6)), min_size=1, max_size=3)


def ragged(counts: list[int]) -> Tensor:
    return torch.arange(max(counts)) < torch.tensor(counts)[:, None]


def rows_of(indices: Tensor) -> list[list[int]]:
    """Indices of each row; padding must be -1 and at the end."""
    out = []
    for row in indices.tolist():
        real = [i for i in row if i >= 0]
        assert row[len(real) :] == [-1] * (len(row) - len(real))
        out.append(real)
    return out


# -- similarity ------------------------------------------------------------------------------------------------------


@given(b=st.integers(1, 3), n=st.integers(1, 7), m=st.integers(0, 5), c=st.integers(1, 9))
def test_cosine_equals_the_reference(b: int, n: int, m: int, c: int) -> None:
    one, other = torch.randn(b, n, c), torch.randn(b, m, c)
    got = cosine_similarity(one, other)
    for i in range(b):
        for j in range(n):
            for k in range(m):
                x, y = one[i, j].double(), other[i, k].double()
                assert got[i, j, k].item() == pytest.approx(float(x @ y / (x.norm() * y.norm())), abs=1e-5)


def test_cosine_ignores_length_and_follows_order() -> None:
    tokens, order = torch.randn(1, 6, 5), torch.randperm(6)
    scaled = tokens * torch.tensor([0.01, 3.0, 70.0, 1.0, 2.0, 0.5])[:, None]
    torch.testing.assert_close(cosine_similarity(scaled, tokens), cosine_similarity(tokens, tokens))
    permuted = cosine_similarity(tokens[:, order], tokens[:, order])
    torch.testing.assert_close(permuted, cosine_similarity(tokens, tokens)[:, order][:, :, order])


def test_zero_vector_stays_zero() -> None:
    assert torch.equal(normalize(torch.zeros(1, 2, 3)), torch.zeros(1, 2, 3))
    assert normalize(torch.randn(1, 2, 3).bfloat16()).dtype == torch.float32


# -- top indices -----------------------------------------------------------------------------------------------------


@given(data=st.data(), counts=st.lists(st.integers(1, 12), min_size=1, max_size=3))
def test_top_indices_equal_the_reference(data: st.DataObject, counts: list[int]) -> None:
    """Few different scores, so that ties are common; Python's stable sort is the reference."""
    most = max(counts)
    values = data.draw(st.lists(st.integers(0, 3), min_size=most * len(counts), max_size=most * len(counts)))
    firsts = data.draw(st.lists(st.booleans(), min_size=most * len(counts), max_size=most * len(counts)))
    num_keep = [data.draw(st.integers(0, n)) for n in counts]
    scores = torch.tensor(values, dtype=torch.float32).reshape(len(counts), most)
    first = torch.tensor(firsts).reshape(len(counts), most)
    got = rows_of(top_indices(scores, num_keep, ragged(counts), first))
    for b, (there, keep) in enumerate(zip(counts, num_keep, strict=True)):
        want = sorted(range(there), key=lambda i: (not first[b, i], -float(scores[b, i]), i))[:keep]
        assert got[b] == want
    budget = Counts(tuple(num_keep), tuple(counts))
    kept = keep_highest(scores, budget, mask=ragged(counts), protected=first)
    assert torch.equal(mask_of(top_indices(scores, num_keep, ragged(counts), first), most), kept)


def test_permuting_scores_permutes_top_indices() -> None:
    scores, order = torch.randn(1, 20), torch.randperm(20)
    mask = torch.ones(1, 20, dtype=torch.bool)
    assert torch.equal(order[top_indices(scores[:, order], (7,), mask)], top_indices(scores, (7,), mask))


@given(rows=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=3), most=st.integers(0, 7))
def test_mask_indices_equal_the_reference(rows: list[list[bool]], most: int) -> None:
    got = mask_indices(torch.tensor(rows), most)
    assert got.shape == (len(rows), most)
    assert rows_of(got) == [[i for i, on in enumerate(row) if on][:most] for row in rows]


# -- greedy loop -----------------------------------------------------------------------------------------------------


@given(data=st.data(), counts=st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_greedy_loop_equals_the_reference(data: st.DataObject, counts: list[int]) -> None:
    """Cover points: the gain of a token is what it adds to the best similarity of each point so far."""
    num_picks = [data.draw(st.integers(0, n)) for n in counts]
    most = max(counts)
    similar = torch.rand(len(counts), 4, most, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    similar = (similar * 4).round() / 4  # ties
    items = torch.arange(len(counts))

    def gain(covered: Tensor) -> Tensor:
        return (similar - covered[:, :, None]).clamp(min=0).sum(dim=1)

    got = rows_of(
        pick_greedily(
            torch.zeros(len(counts), 4),
            gain,
            lambda covered, pick: torch.maximum(covered, similar[items, :, pick]),
            num_picks,
            ragged(counts),
        )
    )
    for b, there in enumerate(counts):
        covered, taken = torch.zeros(4), []
        for _ in range(num_picks[b]):
            gains = {j: float((similar[b, :, j] - covered).clamp(min=0).sum()) for j in range(there) if j not in taken}
            taken.append(max(gains, key=lambda j: (gains[j], -j)))
            covered = torch.maximum(covered, similar[b, :, taken[-1]])
        assert got[b] == taken


# -- neighbours ------------------------------------------------------------------------------------------------------


@given(shapes=grids, data=st.data())
def test_neighbours_equal_the_reference(shapes: list[tuple[int, int]], data: st.DataObject) -> None:
    index = [data.draw(st.lists(st.integers(0, r * c - 1), min_size=2, max_size=2)) for r, c in shapes]
    wrapped = with_neighbours(torch.tensor(index), shapes)
    inside = with_neighbours(torch.tensor(index), shapes, wrap=False)
    for b, (rows, columns) in enumerate(shapes):
        for a, i in enumerate(index[b]):
            line = [min(max(j, 0), rows * columns - 1) for j in (i, i - 1, i + 1, i - columns, i + columns)]
            assert wrapped[b, a].tolist() == line
            row, column = divmod(i, columns)
            near = [(row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column)]
            there = [r * columns + c if 0 <= r < rows and 0 <= c < columns else i for r, c in near]
            assert inside[b, a].tolist() == [i, *there]


def test_neighbours_of_padding_are_padding() -> None:
    for wrap in (True, False):
        assert with_neighbours(torch.tensor([[4, -1]]), [(3, 3)], wrap)[0, 1].tolist() == [-1] * 5


# -- merging ---------------------------------------------------------------------------------------------------------


@given(data=st.data(), b=st.integers(1, 3), n=st.integers(1, 9), m=st.integers(0, 4))
def test_merging_equals_the_reference(data: st.DataObject, b: int, n: int, m: int) -> None:
    target = torch.tensor([[data.draw(st.integers(-1, m - 1)) for _ in range(n)] for _ in range(b)])
    tokens = torch.randn(b, n, 3)
    got = merge_by_mean(tokens, target, m)
    assert got.shape == (b, m, 3)
    for i in range(b):
        for t in range(m):
            members = [tokens[i, j].double() for j in range(n) if target[i, j] == t]
            mean = sum(members) / len(members) if members else torch.zeros(3, dtype=torch.float64)
            torch.testing.assert_close(got[i, t].double(), mean, rtol=1e-5, atol=1e-6)


def test_merging_conserves_mass_and_follows_order() -> None:
    tokens, target = torch.randn(1, 12, 4), torch.randint(0, 3, (1, 12))
    members = (target[0][:, None] == torch.arange(3)).sum(dim=0)
    total = (merge_by_mean(tokens, target, 3)[0] * members[:, None]).sum(dim=0)
    torch.testing.assert_close(total, tokens[0].sum(dim=0))
    order = torch.randperm(12)
    torch.testing.assert_close(merge_by_mean(tokens[:, order], target[:, order], 3), merge_by_mean(tokens, target, 3))
    torch.testing.assert_close(assignment_weights(target, 3).sum(dim=2), (members > 0).float()[None])


# -- draws -----------------------------------------------------------------------------------------------------------


def test_draws_are_pinned() -> None:
    """The stream may never change: recorded subsets depend on it."""
    draws = philox_uniforms(0, 123456789, 1, group_of(2, 0), 4)
    assert draws.tolist() == [0.8064395710178763, 0.08726350286704265, 0.04971615803861862, 0.7332085040641808]
    assert draws.dtype == np.float64


def test_each_number_changes_the_draws() -> None:
    base = (1, 2, 3, 4)
    first = philox_uniforms(*base, 8)
    for place in range(4):
        other = tuple(n + (i == place) for i, n in enumerate(base))
        assert not (philox_uniforms(*other, 8) == first).any()
    assert (philox_uniforms(*base, 20)[:8] == first).all()
    assert group_of(0, 5) != group_of(5, 0)


def test_draws_leave_global_generators_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    philox_uniforms(0, 1, 2, 3, 100)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state[1]).all()  # type: ignore[index]


def test_sample_id_is_the_crc_of_shape_and_first_bytes() -> None:
    pixels = torch.randn(3, 40, 50)
    shape = np.array([3, 40, 50], dtype="<i8").tobytes()
    head = pixels.numpy().reshape(-1).astype("<f4").tobytes()[:4096]
    assert sample_id_of(pixels) == zlib.crc32(shape + head)
    assert sample_id_of(pixels) != sample_id_of(pixels.reshape(3, 50, 40))
    later = pixels.clone()
    later[2, -1, -1] += 1
    assert sample_id_of(later) == sample_id_of(pixels)  # only the beginning counts
    assert math.log2(sample_id_of(pixels) + 1) <= 32
