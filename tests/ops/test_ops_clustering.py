"""k-means and density peaks against references that loop over points."""

from __future__ import annotations

import itertools
import math

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tessella.ops.clustering import density_peaks, k_means, nearest_centre, squared_distances

counts = st.lists(st.integers(1, 9), min_size=1, max_size=3)


def ragged(sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Points of items of several sizes; padding is loud."""
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    return torch.randn(len(sizes), max(sizes), 3).masked_fill(~mask[:, :, None], 50.0), mask


def padded(rows: list[list[int]]) -> Tensor:
    most = max(map(len, rows))
    return torch.tensor([r + [-1] * (most - len(r)) for r in rows])


def lloyd(points: Tensor, start: list[int], iterations: int) -> tuple[list[int], list[Tensor]]:
    """Lloyd's algorithm in float64, point by point."""
    points = points.double()
    means = [points[i] for i in start]
    for _ in range(iterations):
        cluster = [min(range(len(means)), key=lambda k: float((p - means[k]).square().sum())) for p in points]
        members = [[p for p, c in zip(points, cluster, strict=True) if c == k] for k in range(len(means))]
        means = [torch.stack(m).mean(dim=0) if m else old for m, old in zip(members, means, strict=True)]
    return [min(range(len(means)), key=lambda k: float((p - means[k]).square().sum())) for p in points], means


def heights(points: Tensor, neighbours: int) -> list[float]:
    """Density times distance to the nearest denser point, in float64, point by point."""
    points, n = points.double(), len(points)
    far = [[float((points[i] - points[j]).norm()) / math.sqrt(points.shape[1]) for j in range(n)] for i in range(n)]
    density = []
    for i in range(n):
        near = sorted(d**2 for d in far[i])[:neighbours]  # a point itself is the first
        density.append(math.exp(-sum(near) / len(near)))
    out = []
    for i in range(n):
        denser = [far[i][j] for j in range(n) if (-density[j], j) < (-density[i], i)]
        out.append(density[i] * (min(denser) if denser else max(map(max, far))))
    return out


@given(counts, st.integers(0, 5))
def test_k_means_equals_the_loop(sizes: list[int], iterations: int) -> None:
    points, mask = ragged(sizes)
    starts = [torch.randperm(n)[: (n + 1) // 2].tolist() for n in sizes]
    cluster, centres = k_means(points, padded(starts), [len(s) for s in starts], mask, iterations)
    for b, n in enumerate(sizes):
        want, means = lloyd(points[b, :n], starts[b], iterations)
        assert cluster[b].tolist() == [*want, *[-1] * (max(sizes) - n)]
        torch.testing.assert_close(centres[b, : len(means)], torch.stack(means).float(), atol=1e-4, rtol=1e-4)


def test_k_means_never_moves_points_farther_from_their_means() -> None:
    points, mask = torch.randn(1, 40, 4), torch.ones(1, 40, dtype=torch.bool)
    spent = []
    for iterations in range(6):
        cluster, centres = k_means(points, torch.arange(5)[None], (5,), mask, iterations)
        spent.append(float((points[0] - centres[0][cluster[0]]).square().sum()))
    assert spent == sorted(spent, reverse=True)
    assert spent[-1] < 0.9 * spent[0]


def test_a_cluster_that_lost_all_points_stays() -> None:
    points = torch.tensor([[[0.0], [0.0], [4.0]]])
    cluster, centres = k_means(points, torch.tensor([[0, 1, 2]]), (3,), torch.ones(1, 3, dtype=torch.bool))
    assert cluster.tolist() == [[0, 0, 2]]
    assert centres[0, :, 0].tolist() == [0.0, 0.0, 4.0]


@given(counts, st.integers(1, 4))
def test_density_peaks_equal_the_loop(sizes: list[int], most: int) -> None:
    """Items ask for different numbers of neighbours."""
    points, mask = ragged(sizes)
    wanted = [(n + 1) // 2 for n in sizes]
    neighbours = [max(1, most - b) for b in range(len(sizes))]
    peaks, nearest = density_peaks(points, wanted, mask, neighbours)
    for b, n in enumerate(sizes):
        height = heights(points[b, :n], neighbours[b])
        found = peaks[b, : wanted[b]].tolist()
        assert peaks[b, wanted[b] :].eq(-1).all()
        assert len(set(found)) == wanted[b]
        least = sorted(height, reverse=True)[wanted[b] - 1]
        assert all(height[i] >= least - 1e-4 for i in found)  # as high as the highest, but for rounding
        gap = [height[i] - height[j] for i, j in itertools.pairwise(found)]
        assert all(g >= -1e-4 for g in gap)
        near = squared_distances(points[b : b + 1, :n], points[b : b + 1, found])[0]
        assert nearest[b, :n].tolist() == near.argmin(dim=1).tolist()
        assert nearest[b, n:].eq(-1).all()


def test_two_groups_have_one_peak_each() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = torch.cat([torch.randn(20, 2, generator=generator) + shift for shift in (0.0, 30.0)])[None]
    peaks, nearest = density_peaks(groups, (2,), torch.ones(1, 40, dtype=torch.bool), (6,))
    assert sorted(int(p) // 20 for p in peaks[0]) == [0, 1]
    assert len(set(nearest[0, :20].tolist())) == 1
    assert nearest[0, 0] != nearest[0, 20]


def test_distances_and_nearest_centres() -> None:
    a, b = torch.randn(2, 5, 3), torch.randn(2, 4, 3)
    want = (a[:, :, None].double() - b[:, None].double()).square().sum(dim=3)
    torch.testing.assert_close(squared_distances(a, b), want.float(), atol=1e-5, rtol=1e-4)
    assert squared_distances(a, a).diagonal(dim1=1, dim2=2).ge(0).all()
    nearest = nearest_centre(a, b, (4, 2))
    assert nearest[0].tolist() == want[0].argmin(dim=1).tolist()
    assert nearest[1].tolist() == want[1, :, :2].argmin(dim=1).tolist()
    assert nearest_centre(a, b[:, :1].expand(-1, 3, -1), (3, 3)).eq(0).all()
    assert squared_distances(a.bfloat16(), b.bfloat16()).dtype == torch.float32


def test_a_peak_is_its_own_where_points_are_equal() -> None:
    """Without neighbours beside themselves all points are as dense, so that the first and the farthest are peaks."""
    points, mask = torch.tensor([[[1.0], [1.0], [1.0]], [[2.0], [9.0], [9.0]]]), torch.ones(2, 3, dtype=torch.bool)
    peaks, nearest = density_peaks(points, (2, 1), mask, (1, 1))
    assert peaks.tolist() == [[0, 1], [0, -1]]
    assert nearest.tolist() == [[0, 1, 0], [0, 0, 0]]


def test_without_peaks_points_are_at_none() -> None:
    peaks, nearest = density_peaks(torch.randn(2, 3, 4), (0, 0), torch.ones(2, 3, dtype=torch.bool), (0, 0))
    assert peaks.shape == (2, 0)
    assert nearest.tolist() == [[-1] * 3] * 2
