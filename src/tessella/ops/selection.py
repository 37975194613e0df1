"""Indices of the highest scores, with ties in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import on_device


def top_indices(
    scores: Float[Tensor, "B V"],
    num_keep: Sequence[int],
    mask: Bool[Tensor, "B V"],
    first: Bool[Tensor, "B V"] | None = None,
) -> Int[Tensor, "B K"]:
    """Indices of the `num_keep[b]` highest scores, highest first, lower index first among equals, padded with -1.

    Tokens in `first` come before all others; padded tokens (`mask` False) never come. K is the largest of `num_keep`.

    >>> top_indices(torch.tensor([[0.1, 0.9, 0.9], [0.3, 0.2, 0.0]]), (2, 1), torch.ones(2, 3, dtype=torch.bool))
    tensor([[ 1,  2],
            [ 0, -1]])
    """
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices
    rank = mask.to(torch.int8) if first is None else mask.to(torch.int8) + (mask & first).to(torch.int8)
    order = order.gather(1, torch.sort(rank.gather(1, order), dim=1, descending=True, stable=True).indices)
    most = max(num_keep, default=0)
    wanted = on_device(num_keep, scores.device)
    return torch.where(torch.arange(most, device=scores.device) < wanted[:, None], order[:, :most], -1)


def mask_indices(mask: Bool[Tensor, "B V"], most: int) -> Int[Tensor, "B {most}"]:
    """Indices where the mask is True, ascending, padded with -1 to `most` columns; the rest is left out.

    >>> mask_indices(torch.tensor([[False, True, True], [True, False, False]]), 2)
    tensor([[ 1,  2],
            [ 0, -1]])
    """
    batch, num_tokens = mask.shape
    place = torch.where(mask, mask.cumsum(dim=1) - 1, most).clamp(max=most)
    here = torch.arange(num_tokens, device=mask.device).expand(batch, -1)
    out = torch.full((batch, most + 1), -1, dtype=torch.long, device=mask.device)
    return out.scatter(1, place, here)[:, :most]


def pad_indices(rows: Sequence[Sequence[int]], device: torch.device) -> Int[Tensor, "B K"]:
    """Rows of indices known to the host as one tensor, padded with -1 to the longest.

    >>> pad_indices([[4, 0], [2]], torch.device("cpu"))
    tensor([[ 4,  0],
            [ 2, -1]])
    """
    most = max(map(len, rows), default=0)
    return on_device([i for row in rows for i in [*row, *[-1] * (most - len(row))]], device).reshape(len(rows), most)
