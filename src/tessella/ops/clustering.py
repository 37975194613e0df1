"""Groups of similar tokens: k-means and density peaks, batched, in float32 and without any draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..core.budget import on_device
from .merging import merge_by_mean
from .selection import top_indices


def squared_distances(a: Float[Tensor, "B N C"], b: Float[Tensor, "B M C"]) -> Float[Tensor, "B N M"]:
    """Squared Euclidean distance between every vector of `a` and every vector of `b`, in float32, never negative.

    >>> squared_distances(torch.tensor([[[0.0], [3.0]]]), torch.tensor([[[1.0]]]))
    tensor([[[1.],
             [4.]]])
    """
    a, b = a.float(), b.float()
    lengths = a.square().sum(dim=2)[:, :, None] + b.square().sum(dim=2)[:, None, :]
    return (lengths - 2 * a @ b.transpose(1, 2)).clamp(min=0)


def nearest_centre(
    points: Float[Tensor, "B N C"], centres: Float[Tensor, "B K C"], num_centres: Sequence[int]
) -> Int[Tensor, "B N"]:
    """For each point the number of the nearest of its item's first `num_centres[b]` centres, the first among equals.

    >>> nearest_centre(torch.tensor([[[0.2], [0.9]]]), torch.tensor([[[0.0], [1.0]]]), (2,))
    tensor([[0, 1]])
    """
    distance = squared_distances(points, centres)
    there = torch.arange(centres.shape[1], device=points.device) < on_device(num_centres, points.device)[:, None]
    return distance.masked_fill(~there[:, None, :], torch.inf).argmin(dim=2)


def k_means(
    points: Float[Tensor, "B N C"],
    start: Int[Tensor, "B K"],
    num_clusters: Sequence[int],
    mask: Bool[Tensor, "B N"],
    iterations: int = 10,
) -> tuple[Int[Tensor, "B N"], Float[Tensor, "B K C"]]:
    """Lloyd's algorithm from the points `start` (padded with -1): the cluster of each point, and the clusters' means.

    Every round assigns each point to the nearest mean and takes means anew; one that lost all its points stays where it
    was. Padded points (`mask` False) are in no cluster, -1.

    >>> points = torch.tensor([[[0.0], [1.0], [9.0], [8.0]]])
    >>> k_means(points, torch.tensor([[0, 1]]), (2,), torch.ones(1, 4, dtype=torch.bool))
    (tensor([[0, 0, 1, 1]]), tensor([[[0.5000],
             [8.5000]]]))
    """
    points = points.float()
    centres = points.gather(1, start.clamp(min=0)[:, :, None].expand(-1, -1, points.shape[2]))
    for _ in range(iterations):
        cluster = torch.where(mask, nearest_centre(points, centres, num_clusters), -1)
        sizes = (cluster[:, None, :] == torch.arange(start.shape[1], device=points.device)[:, None]).sum(dim=2)
        centres = torch.where(sizes[:, :, None] > 0, merge_by_mean(points, cluster, start.shape[1]), centres)
    return torch.where(mask, nearest_centre(points, centres, num_clusters), -1), centres


def density_peaks(
    points: Float[Tensor, "B N C"], num_peaks: Sequence[int], mask: Bool[Tensor, "B N"], neighbours: Sequence[int]
) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B N"]]:
    """Points that are dense and far from denser ones, best first, padded with -1; and the number of each point's peak.

    Density is `exp(-mean squared distance to the nearest points)` over `neighbours[b]` of them, a point itself being
    the first; a point's height is its density times the distance to the nearest denser point (for the densest: the
    largest distance of all). Distances are divided by the root of the number of channels. Equal densities: the earlier
    point counts as the denser. A peak is its own, another point goes to the nearest peak, the first among equals.
    Padded points are at no peak, -1. Needs all pairs.

    >>> points = torch.tensor([[[0.0], [0.1], [0.2], [5.0], [5.5]]])
    >>> density_peaks(points, (2,), torch.ones(1, 5, dtype=torch.bool), (2,))
    (tensor([[0, 3]]), tensor([[0, 0, 0, 1, 1]]))
    """
    count = points.shape[1]
    place = torch.arange(count, device=points.device)
    itself = place[:, None] == place
    pairs = mask[:, :, None] & mask[:, None, :]
    distance = (squared_distances(points, points) / points.shape[2]).sqrt().masked_fill(itself, 0.0)
    far = distance.masked_fill(~pairs, torch.inf)
    most = max(neighbours, default=0)
    ordered = far.square().sort(dim=2).values[:, :, :most]
    nearby = place[:most] < on_device(neighbours, points.device)[:, None]
    counted = ordered.isfinite() & nearby[:, None, :]
    density = torch.exp(-torch.where(counted, ordered, 0.0).sum(dim=2) / counted.sum(dim=2).clamp(min=1))
    denser = (density[:, None, :] > density[:, :, None]) | (
        (density[:, None, :] == density[:, :, None]) & (place[None, :] < place[:, None])
    )
    largest = distance.masked_fill(~pairs, 0.0).flatten(1).amax(dim=1, keepdim=True)
    nearest = far.masked_fill(~denser, torch.inf).amin(dim=2)
    height = density * torch.where(nearest.isfinite(), nearest, largest)
    peaks = top_indices(height, num_peaks, mask)
    if not peaks.shape[1]:
        return peaks, torch.full_like(mask, -1, dtype=torch.long)
    centres = points.float().gather(1, peaks.clamp(min=0)[:, :, None].expand(-1, -1, points.shape[2]))
    peak = torch.where(mask, nearest_centre(points, centres, num_peaks), -1)
    own = nn.functional.pad(peak, (0, 1))  # a place for peaks that are padding
    number = torch.arange(peaks.shape[1], device=points.device).expand_as(peaks)
    return peaks, own.scatter(1, torch.where(peaks < 0, count, peaks), number)[:, :count]
