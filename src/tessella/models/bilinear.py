"""Grids of patches shrunk by bilinear interpolation: which places each token mixes, and with which weight."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Shrunk:
    """A grid of R x C tokens made of a larger grid.

    `row`, `column` and `weight` tell the P places of the larger grid that each token mixes: four, or one where nothing
    was shrunk. `middle_row` and `middle_column` are the places in which the middle of each line and column lies.
    """

    row: Int[Tensor, "R C P"]
    column: Int[Tensor, "R C P"]
    weight: Float[Tensor, "R C P"]
    middle_row: Int[Tensor, " R"]
    middle_column: Int[Tensor, " C"]

    @property
    def num_sources(self) -> int:
        return self.row.shape[2]


def shrink(rows: int, columns: int, shape: tuple[int, int]) -> Shrunk:
    """A grid of `rows` x `columns` places as one of `shape` tokens, as interpolation with `align_corners=False` does.

    >>> shrink(4, 1, (2, 1)).row.reshape(2, -1)
    tensor([[0, 1],
            [2, 3]])
    """
    down, across = _line(rows, shape[0]), _line(columns, shape[1])
    sources = down[0].shape[1] * across[0].shape[1]

    def pairs(vertical: Tensor, horizontal: Tensor) -> tuple[Tensor, Tensor]:
        size = (*shape, vertical.shape[1], horizontal.shape[1])
        return (
            vertical[:, None, :, None].expand(size).reshape(*shape, sources),
            horizontal[None, :, None, :].expand(size).reshape(*shape, sources),
        )

    row, column = pairs(down[0], across[0])
    of_row, of_column = pairs(down[1], across[1])
    return Shrunk(row, column, of_row * of_column, _middle(*down), _middle(*across))


def _line(length: int, shrunk: int) -> tuple[Int[Tensor, "S W"], Float[Tensor, "S W"]]:
    """For each place of a shrunk line the places it reads, and their weights; one place where it is not shrunk."""
    if shrunk == length:
        return torch.arange(length)[:, None], torch.ones(length, 1)
    source = ((torch.arange(shrunk) + 0.5) * (length / shrunk) - 0.5).clamp(min=0)
    low = source.floor().long()
    high = (low + 1).clamp(max=length - 1)
    part = source - low
    return torch.stack([low, high], dim=1), torch.stack([1 - part, part], dim=1)


def _middle(places: Int[Tensor, "S W"], weights: Float[Tensor, "S W"]) -> Int[Tensor, " S"]:
    """The place that lies under the middle of each token of a line: the heavier one, the later of two equal ones."""
    return torch.where(weights[:, -1] >= 0.5, places[:, -1], places[:, 0])
