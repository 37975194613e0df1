"""Outliers among the values of a ragged batch, by their local density."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

OUTLYING = 1.5  # a local outlier factor above it is an outlier: scikit-learn's contamination "auto"
_LEAST_REACH = 1e-10  # added to every mean reach, as scikit-learn does, so that copies of one value divide by no zero


def local_outlier_factor(
    values: Float[Tensor, "B N"], num_neighbours: int, mask: Bool[Tensor, "B N"]
) -> Float64[Tensor, "B N"]:
    """How much sparser each value lies than its `num_neighbours` nearest ones (Breunig et al., 2000); about 1 inside.

    Exact, in float64, as scikit-learn's LocalOutlierFactor for one feature. An item of n real values (`mask` True) has
    at most n - 1 neighbours; a single value and padding get 1. Of two equally far neighbours for which there is one
    place, the lower value is taken, where scikit-learn takes whichever its tree meets first. Nothing waits for the
    device.

    >>> line = torch.tensor([[0.0, 1.0, 2.0, 3.0, 40.0]])
    >>> local_outlier_factor(line, 2, torch.ones(1, 5, dtype=torch.bool)) > OUTLYING
    tensor([[False, False, False, False,  True]])
    """
    batch, num_values = values.shape
    line, order = values.double().masked_fill(~mask, torch.inf).sort(dim=1, stable=True)
    here = torch.arange(num_values, device=values.device)
    real = mask.sum(dim=1)[:, None]  # the first `real` of the line are values

    reach = min(num_neighbours, max(num_values - 1, 0))
    above = torch.arange(1, reach + 1, device=values.device)
    near = here[:, None] + torch.cat([-above.flip(0), above])  # [N, 2 k]: the nearest are among k below and k above
    there = (near >= 0) & (near < real[:, :, None]) & (here < real)[:, :, None]
    near = near.clamp(0, max(num_values - 1, 0)).expand(batch, -1, -1)

    far = line[:, :, None] - line.gather(1, near.flatten(1)).view(near.shape)
    distance, nearest = far.abs().masked_fill(~there, torch.inf).sort(dim=2, stable=True)
    distance, nearest = distance[:, :, :reach], near.gather(2, nearest[:, :, :reach]).flatten(1)
    found = distance < torch.inf
    count = found.sum(dim=2).clamp(min=1)

    def mean(per_neighbour: Tensor) -> Tensor:
        return per_neighbour.masked_fill(~found, 0.0).sum(dim=2) / count

    widest = distance.masked_fill(~found, 0.0).amax(dim=2) if reach else torch.zeros_like(line)
    density = 1 / (mean(torch.maximum(distance, widest.gather(1, nearest).view(found.shape))) + _LEAST_REACH)
    factor = mean(density.gather(1, nearest).view(found.shape)) / density
    factor = torch.where((real > 1) & (here < real), factor, 1.0)
    return torch.empty_like(factor).scatter(1, order, factor)
