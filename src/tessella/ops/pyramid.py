"""A large picture at several scales, each on whole square tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Level:
    """A picture of `size` (height, width) pixels on `tiles` (rows, columns) of `tile` pixels a side."""

    size: tuple[int, int]
    tiles: tuple[int, int]
    tile: int

    def grid(self, tokens_a_side: int) -> tuple[int, int]:
        """Rows and columns of the tokens that show some of the picture, where a tile has so many a side."""
        rows, columns = (-(-length * tokens_a_side // self.tile) for length in self.size)
        return rows, columns


def scales_of(height: int, width: int, tile: int, base: int) -> tuple[float, ...]:
    """Scales of a picture larger than `base` tiles: the thumbnail's, level 0's, and finer ones, halves of 1 and 1.

    >>> [round(s, 4) for s in scales_of(3000, 4000, tile=336, base=3)]
    [0.084, 0.252, 0.5, 1.0]
    """
    least = min(1.0, base * tile / max(height, width))
    halves = [1.0]
    while halves[-1] / 2 >= least:
        halves.append(halves[-1] / 2)
    return tuple(sorted({*halves, least, min(tile / height, tile / width)}))


def level_of(height: int, width: int, scale: float, tile: int) -> Level:
    """A picture at a scale, on as many tiles as that takes, which it then fills along one side at least.

    >>> level_of(3000, 4000, 0.252, tile=336)
    Level(size=(756, 1008), tiles=(3, 3), tile=336)
    """
    rows, columns = (math.ceil(max(round(n * scale), 1) / tile) for n in (height, width))
    fill = min(rows * tile / height, columns * tile / width)
    size = (max(round(height * fill), 1), max(round(width * fill), 1))
    return Level(size, (rows, columns), tile)


def tiles_under(places: Int[Tensor, " K"], grid: tuple[int, int], tiles: tuple[int, int]) -> Bool[Tensor, "R T"]:
    """The tiles (rows, columns) of the next level that lie under places of a grid of tokens (rows, columns).

    >>> tiles_under(torch.tensor([0, 5]), (2, 3), (4, 4)).nonzero().tolist()
    [[0, 0], [2, 2]]
    """
    row, column = places // grid[1], places % grid[1]
    out = torch.zeros(tiles, dtype=torch.bool, device=places.device)
    out[row * tiles[0] // grid[0], column * tiles[1] // grid[1]] = True
    return out
