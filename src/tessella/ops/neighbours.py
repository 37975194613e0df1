"""Neighbours on a raster of rows and columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ..core.budget import on_device


def with_neighbours(
    index: Int[Tensor, "B A"], grids: Sequence[tuple[int, int]], wrap: bool = True
) -> Int[Tensor, "B A 5"]:
    """Each index followed by the tokens left, right, above and below of it, in raster order of `(rows, columns)` grids.

    With `wrap` the raster is read as one line: the right neighbour at a border is the first token of the next row, and
    indices that leave the picture are clamped to its first or last token. Without it a neighbour that is not there is
    replaced by the token itself. Padding (-1) stays -1.

    >>> with_neighbours(torch.tensor([[2, 4]]), [(2, 3)])
    tensor([[[2, 1, 3, 0, 5],
             [4, 3, 5, 1, 5]]])
    >>> with_neighbours(torch.tensor([[2]]), [(2, 3)], wrap=False)
    tensor([[[2, 1, 2, 2, 5]]])
    """
    rows, columns = (on_device([g[axis] for g in grids], index.device)[:, None] for axis in (0, 1))
    steps = torch.stack([torch.zeros_like(columns), -torch.ones_like(columns), torch.ones_like(columns)], dim=2)
    steps = torch.cat([steps, -columns[:, :, None], columns[:, :, None]], dim=2)  # [B, 1, 5]
    around = index[:, :, None] + steps
    if wrap:
        around = torch.minimum(around.clamp(min=0), (rows * columns - 1)[:, :, None])
    else:
        row, column = index // columns, index % columns
        there = [torch.ones_like(index, dtype=torch.bool), column > 0, column < columns - 1, row > 0, row < rows - 1]
        around = torch.where(torch.stack(there, dim=2), around, index[:, :, None])
    return torch.where(index[:, :, None] >= 0, around, -1)
