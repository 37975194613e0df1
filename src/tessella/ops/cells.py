"""Square cells of grids of tokens: in which each token lies, the highest token of each, and each merged into one."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.layout import Layout

_MOSAIC = -2  # in place of a tile's number, for tiles that are laid together


def cells_of(layout: Layout, side: float) -> tuple[Int[Tensor, "B V"], int]:
    """The cell of `side` x `side` places in which each token lies, -1 for padding; and how many an item has at most.

    Cells are numbered within their item; `side` > 0 need not be whole. Tiles that are laid together are one grid, with
    newlines as its last column; every other block is a grid of its own. It is worked out on the host.

    >>> cells_of(Layout.single(1, 2, 4), side=2.0)
    (tensor([[0, 0, 1, 1, 0, 0, 1, 1]]), 2)
    """
    row, column, tile = layout.row.clone(), layout.column.clone(), layout.tile.clone()
    for b, blocks in enumerate(layout.blocks):
        for block in (k for k in blocks if k.top is not None):
            names = zip((layout.image[b], layout.tile[b], layout.frame[b]), block.key, strict=True)
            mine = torch.stack([numbers == number for numbers, number in names]).all(dim=0)
            row[b] += mine * (block.top or 0)
            column[b] += mine * block.left
            tile[b].masked_fill_(mine, _MOSAIC)
    if row.numel() == 0:
        return row, 0
    key = torch.zeros_like(row)
    lines = ((place.float() / side).floor().long() for place in (row, column))
    for number in (layout.image, layout.frame, tile - _MOSAIC, *lines):
        key = key * (int(number.amax()) + 1) + number
    out, most = torch.full_like(layout.slot, -1), 0
    for b, count in enumerate(layout.num_tokens):
        cells, out[b, :count] = torch.unique(key[b, :count], return_inverse=True)
        most = max(most, len(cells))
    return out, most


def highest_in_cells(
    scores: Float[Tensor, "B N"], cell: Int[Tensor, "B N"], num_cells: int
) -> Int[Tensor, "B {num_cells}"]:
    """The token of highest score in each cell, the earlier one among equals; -1 where a cell has no token.

    >>> highest_in_cells(torch.tensor([[0.1, 0.7, 0.9, 0.7]]), torch.tensor([[0, 0, -1, 0]]), 2)
    tensor([[ 1, -1]])
    """
    num_tokens = scores.shape[1]
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices
    rank = torch.argsort(order, dim=1)
    best = torch.full((len(scores), num_cells + 1), num_tokens, device=scores.device)
    best = best.scatter_reduce(1, torch.where(cell < 0, num_cells, cell), rank, "amin")[:, :num_cells]
    return torch.where(best < num_tokens, order.gather(1, best.clamp(max=max(num_tokens - 1, 0))), -1)


def merge_in_cells(
    tokens: Float[Tensor, "B N C"], weight: Float[Tensor, "B N"], cell: Int[Tensor, "B N"], num_cells: int
) -> Float[Tensor, "B {num_cells} C"]:
    """Weighted mean of the tokens of each cell, in float32; cell -1 is none. Weights may be negative.

    Where the weights of a cell sum to zero it is the mean; zero where it has no token.

    >>> tokens, weight = torch.tensor([[[1.0], [5.0], [9.0]]]), torch.tensor([[3.0, 1.0, 7.0]])
    >>> merge_in_cells(tokens, weight, torch.tensor([[0, 0, -1]]), 2)
    tensor([[[2.],
             [0.]]])
    """
    member = (cell[:, None, :] == torch.arange(num_cells, device=cell.device)[:, None]).float()
    weighted = member * weight.float()[:, None, :]
    total = weighted.sum(dim=2, keepdim=True)
    shares = torch.where(total == 0, member, weighted)
    total = torch.where(total == 0, member.sum(dim=2, keepdim=True).clamp(min=1), total)
    return shares @ tokens.float() / total
