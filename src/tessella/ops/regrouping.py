"""Tokens of a batch in other groups: frames of a clip as items of their own, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from ..core.budget import on_device


def regroup(
    values: Shaped[Tensor, "B V *rest"], index: Int[Tensor, "U W"], source_row: Sequence[int]
) -> Shaped[Tensor, "U W *rest"]:
    """Values `index[u]` of item `source_row[u]`; where the index is -1, any value.

    >>> regroup(torch.tensor([[5, 6, 7]]), torch.tensor([[0, 2], [1, -1]]), (0, 0))
    tensor([[5, 7],
            [6, 5]])
    """
    rows = on_device(source_row, values.device)
    return values[rows[:, None], index.to(values.device, non_blocking=True).clamp(min=0)]


def ungroup(
    values: Shaped[Tensor, "U W *rest"],
    index: Int[Tensor, "U W"],
    source_row: Sequence[int],
    size: tuple[int, int],
) -> Shaped[Tensor, "B V *rest"]:
    """What `regroup` took apart, as `size` = (B, V) again; zero where no group has a token.

    >>> ungroup(torch.tensor([[5, 7], [6, 1]]), torch.tensor([[0, 2], [1, -1]]), (0, 0), (1, 4))
    tensor([[5, 6, 7, 0]])
    """
    batch, width = size
    rows, index = on_device(source_row, values.device), index.to(values.device, non_blocking=True)
    place = torch.where(index >= 0, rows[:, None] * width + index, batch * width).flatten()
    out = values.new_zeros(batch * width + 1, *values.shape[2:])
    return out.index_copy(0, place, values.flatten(0, 1))[:-1].unflatten(0, size)
