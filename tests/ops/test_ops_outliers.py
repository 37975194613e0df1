"""The local outlier factor against scikit-learn's, and where that one leaves it open, against a slow reference."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor

from tessella.ops.outliers import OUTLYING, local_outlier_factor

NEIGHBOURS = st.integers(1, 25)


def whole(values: Tensor, num_neighbours: int) -> Tensor:
    """The factor of values without padding."""
    return local_outlier_factor(values[None], num_neighbours, torch.ones(1, len(values), dtype=torch.bool))[0]


def sklearns(values: Tensor, num_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Factors, and which are outliers under contamination "auto"."""
    model = LocalOutlierFactor(n_neighbors=num_neighbours)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of more neighbours than values, and of copies
        labels = model.fit_predict(values.double().numpy()[:, None])
    return -model.negative_outlier_factor_, labels == -1


def slow(values: list[float], num_neighbours: int) -> list[float]:
    """The definition, one value after the other; of equally far neighbours the lower, then the earlier."""
    there = range(len(values))
    if len(values) == 1:
        return [1.0]
    near = {}
    for i in there:
        by_distance = sorted((j for j in there if j != i), key=lambda j: (abs(values[j] - values[i]), values[j], j))
        near[i] = by_distance[:num_neighbours]
    widest = {i: abs(values[near[i][-1]] - values[i]) for i in there}
    density = {}
    for i in there:
        reach = [max(abs(values[j] - values[i]), widest[j]) for j in near[i]]
        density[i] = 1 / (sum(reach) / len(reach) + 1e-10)
    return [sum(density[j] for j in near[i]) / len(near[i]) / density[i] for i in there]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 300), NEIGHBOURS, st.sampled_from([torch.float32, torch.float64]), st.integers(0, 999))
def test_equals_scikit_learn(count: int, num_neighbours: int, dtype: torch.dtype, seed: int) -> None:
    """Skewed values as attention has them: many small ones close together, a few large ones."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=generator, dtype=torch.float64).mul(2).exp().div(600).to(dtype)
    factor, (theirs, outliers) = whole(values, num_neighbours), sklearns(values, num_neighbours)
    np.testing.assert_allclose(factor.numpy(), theirs, rtol=1e-9)
    assert (factor > OUTLYING).tolist() == outliers.tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), NEIGHBOURS, st.integers(0, 999))
def test_equals_scikit_learn_with_copies(different: int, copies: int, num_neighbours: int, seed: int) -> None:
    """Values that stand several times, one of them more often than there are neighbours, in any order."""
    generator = torch.Generator().manual_seed(seed)
    line = torch.rand(different, generator=generator, dtype=torch.float64)
    values = torch.cat([line, line[: different // 2], line.min().repeat(copies)])
    values = values[torch.randperm(len(values), generator=generator)]
    factor, (theirs, outliers) = whole(values, num_neighbours), sklearns(values, num_neighbours)
    np.testing.assert_allclose(factor.numpy(), theirs, rtol=1e-9)
    assert (factor > OUTLYING).tolist() == outliers.tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=40), min_size=1, max_size=4), NEIGHBOURS)
def test_ties_and_ragged_batches_equal_the_reference(items: list[list[int]], num_neighbours: int) -> None:
    """Whole numbers, of which neighbours below and above are equally far; padding holds loud and infinite values."""
    most = max(map(len, items))
    for padding in (7.0, torch.inf, torch.nan):
        values = torch.full((len(items), most), padding)
        for row, item in zip(values, items, strict=True):
            row[: len(item)] = torch.tensor(item)
        mask = torch.arange(most) < torch.tensor([len(i) for i in items])[:, None]
        factor = local_outlier_factor(values, num_neighbours, mask)
        for row, item in zip(factor, items, strict=True):
            np.testing.assert_allclose(row[: len(item)].numpy(), slow([float(v) for v in item], num_neighbours), 1e-9)
            assert row[len(item) :].tolist() == [1.0] * (most - len(item))


def test_real_values_may_stand_anywhere() -> None:
    values = torch.randn(1, 90, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(90)[None] % 3 > 0
    factor = local_outlier_factor(values, 10, mask)
    assert torch.equal(factor[mask], whole(values[mask], 10))
    assert factor[~mask].unique().tolist() == [1.0]


@pytest.mark.parametrize("count", [1, 2, 3, 500])
def test_equal_values_are_no_outliers(count: int) -> None:
    assert whole(torch.full((count,), 0.25), 20).tolist() == [1.0] * count


def test_an_even_line_and_far_values_at_both_ends() -> None:
    values = torch.cat([torch.tensor([-90.0]), torch.arange(100.0), torch.tensor([250.0, 251.0])])
    far = [0, 101, 102]
    assert (
        (whole(values, 20) > OUTLYING).nonzero()[:, 0].tolist()
        == far
        == np.flatnonzero(sklearns(values, 20)[1]).tolist()
    )
