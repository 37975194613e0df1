"""Quantiles of ragged batches."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def quantile(values: Float[Tensor, "B V"], share: float, mask: Bool[Tensor, "B V"]) -> Float[Tensor, " B"]:
    """The value below which a share in [0, 1] of each item's real values lies, linear between its two neighbours.

    Padded values (`mask` False) do not count; every item has a real one.

    >>> quantile(torch.tensor([[4.0, 1.0, 2.0, 9.0]]), 0.25, torch.tensor([[True, True, True, False]]))
    tensor([1.5000])
    """
    place = (mask.sum(dim=1, keepdim=True) - 1).to(values.dtype) * share
    low, high = place.floor().long(), place.ceil().long()
    ordered = values.masked_fill(~mask, torch.inf).sort(dim=1).values
    return torch.lerp(ordered.gather(1, low), ordered.gather(1, high), place - low)[:, 0]
