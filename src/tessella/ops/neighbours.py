"""Neighbours on a raster of rows and columns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
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


def dilate(mask: Bool[Tensor, "B V"], grids: Sequence[tuple[int, int]], radius: int = 1) -> Bool[Tensor, "B V"]:
    """True where a token at most `radius` rows and columns away is True, in raster order of `(rows, columns)` grids.

    Places behind a grid's last token are padding: they neither spread nor become True. The radius is at least 0.

    >>> dilate(torch.tensor([[True, False, False, False, False, False]]), [(2, 3)]).view(2, 3).int()
    tensor([[1, 1, 0],
            [1, 1, 0]], dtype=torch.int32)
    """
    rows, columns = (on_device([g[axis] for g in grids], mask.device)[:, None] for axis in (0, 1))
    height, width = (max((g[axis] for g in grids), default=0) for axis in (0, 1))
    token = torch.arange(mask.shape[1], device=mask.device)
    real = token < rows * columns
    cell = torch.where(real, token // columns * width + token % columns, height * width)
    raster = torch.zeros(len(mask), height * width + 1, device=mask.device).scatter(1, cell, mask.float())
    raster = raster[:, :-1].view(len(mask), 1, height, width)
    spread = torch.nn.functional.max_pool2d(raster, 2 * radius + 1, stride=1, padding=radius)
    return spread.flatten(1).gather(1, cell.clamp(max=height * width - 1)).bool() & real
