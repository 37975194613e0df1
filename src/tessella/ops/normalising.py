"""Scores brought to a common scale, over the real tokens of ragged batches. Padded values become 0."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .quantiles import quantile


def min_max(values: Float[Tensor, "B V"], mask: Bool[Tensor, "B V"], eps: float = 0.0) -> Float[Tensor, "B V"]:
    """`(x - low) / (high - low + eps)` of each item, in float32; zeros where all values are equal.

    >>> min_max(torch.tensor([[4.0, 2.0, 3.0, 99.0]]), torch.tensor([[True, True, True, False]]))
    tensor([[1.0000, 0.0000, 0.5000, 0.0000]])
    """
    values = values.float()
    low = values.masked_fill(~mask, torch.inf).amin(dim=1, keepdim=True)
    high = values.masked_fill(~mask, -torch.inf).amax(dim=1, keepdim=True)
    return _scaled(values, mask, low, high, eps)


def quantile_range(
    values: Float[Tensor, "B V"], mask: Bool[Tensor, "B V"], low: float, high: float
) -> Float[Tensor, "B V"]:
    """As `min_max` between two quantiles of each item, shares with 0 <= low < high <= 1; values beyond become 0 or 1.

    One outlier does not press the others together:

    >>> quantile_range(torch.tensor([[0.0, 1.0, 2.0, 3.0, 99.0]]), torch.ones(1, 5, dtype=torch.bool), 0.25, 0.75)
    tensor([[0.0000, 0.0000, 0.5000, 1.0000, 1.0000]])
    """
    values = values.float()
    bottom, top = (quantile(values, share, mask)[:, None] for share in (low, high))
    return _scaled(values, mask, bottom, top, 0.0).clamp(0, 1)


def rank_share(values: Float[Tensor, "B V"], mask: Bool[Tensor, "B V"]) -> Float[Tensor, "B V"]:
    """Place of each value among its item's, from 0 for the lowest to 1 for the highest; equal values share theirs.

    A value that is alone, or equal to all others, is at 1/2.

    >>> rank_share(torch.tensor([[0.1, 70.0, 0.2, 0.1, 5.0]]), torch.ones(1, 5, dtype=torch.bool))
    tensor([[0.1250, 1.0000, 0.5000, 0.1250, 0.7500]])
    """
    values = values.float().masked_fill(~mask, torch.inf).contiguous()
    ordered = values.sort(dim=1).values
    below = torch.searchsorted(ordered, values)
    equal = torch.searchsorted(ordered, values, right=True) - below
    others = mask.sum(dim=1, keepdim=True) - 1
    place = torch.where(others > 0, (below + (equal - 1) / 2) / others.clamp(min=1), 0.5)
    return torch.where(mask, place, 0)


def softmax(values: Float[Tensor, "*B V"], mask: Bool[Tensor, "*#B V"], temperature: float = 1.0) -> Tensor:
    """Softmax of `x / temperature` over the last axis, in float32; rows without a real token are zeros.

    >>> softmax(torch.tensor([[1.0, 1.0, 50.0]]), torch.tensor([[True, True, False]]), 0.5)
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    logits = (values.float() / temperature).masked_fill(~mask, torch.finfo(torch.float32).min)
    return logits.softmax(dim=-1) * mask  # a row without any would be uniform


def geometric_blend(
    first: Float[Tensor, "B V"], second: Float[Tensor, "B V"], share: float, floor: float = 1e-6
) -> Float[Tensor, "B V"]:
    """Weighted mean in the log domain, `first^(1 - share) * second^share`, of values that are at least `floor` > 0.

    >>> geometric_blend(torch.tensor([[4.0, 1.0]]), torch.tensor([[1.0, 0.0]]), 0.5, floor=0.01)
    tensor([[2.0000, 0.1000]])
    """
    one, other = (v.float().clamp(min=floor).log() for v in (first, second))
    return ((1 - share) * one + share * other).exp()


def _scaled(
    values: Float[Tensor, "B V"],
    mask: Bool[Tensor, "B V"],
    low: Float[Tensor, "B 1"],
    high: Float[Tensor, "B 1"],
    eps: float,
) -> Float[Tensor, "B V"]:
    span = (high - low + eps).clamp(min=torch.finfo(torch.float32).tiny)  # 0 / 0 is 0
    return torch.where(mask, (values - low) / span, 0)
