"""Pictures cut into tiles that are laid together again: the footprint of a thumbnail and a mosaic of tiles."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Int, Shaped
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

from ..core.layout import THUMBNAIL, Block
from .bilinear import shrink
from .footprint import Footprint

Size = tuple[int, int]  # height, width


@lru_cache(maxsize=256)
def tile_grid(size: Size, pinpoints: tuple[Size, ...], tile: int) -> Size:
    """Rows and columns of tiles of `tile` pixels into which a picture of `size` is cut."""
    height, width = select_best_resolution(size, list(pinpoints))
    return height // tile, width // tile


def unpadded(rows: int, columns: int, size: Size) -> tuple[int, int, int, int]:
    """What is left of a mosaic without the rows or columns that only pad a picture of `size`: top, left, rows, columns.

    >>> unpadded(8, 8, (30, 60))
    (2, 0, 4, 8)
    """
    height, width = size
    if width / height > columns / rows:
        cut = (rows - int(round(height * (columns / width), 7))) // 2
        return cut, 0, rows - 2 * cut, columns
    cut = (columns - int(round(width * (rows / height), 7))) // 2
    return 0, cut, rows, columns - 2 * cut


@lru_cache(maxsize=64)
def mosaic_footprint(grid: Size, side: int, size: Size, most: float | None = None) -> Footprint:
    """A thumbnail of `side` x `side` tokens, then a mosaic of `grid` such tiles, un-padded, a newline behind each line.

    `size` is that of the picture in pixels. With `most`, a mosaic of more than that many tiles is shrunk by bilinear
    interpolation, and its tokens are mixtures of four patches; each stands in the tile in which its middle lies.
    """
    top, left, rows, columns = unpadded(grid[0] * side, grid[1] * side, size)
    ratio = math.sqrt(rows * columns / (most * side**2)) if most is not None else 0.0
    shape = (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)
    shrunk = shrink(rows, columns, shape)
    row, column, sources = shrunk.row + top, shrunk.column + left, shrunk.num_sources
    patch = (1 + row // side * grid[1] + column // side) * side**2 + row % side * side + column % side
    mosaic = _with_newlines(patch, -1)
    base = torch.full((side**2, sources), -1)
    base[:, 0] = torch.arange(side**2)
    tiles = _tiles(shrunk.middle_row + top, shrunk.middle_column + left, side, grid)
    blocks = (Block(0, side, side, role=THUMBNAIL), *tiles)
    num_tiles = grid[0] * grid[1] + 1
    shares = None if sources == 1 else torch.cat([(base >= 0).float(), _with_newlines(shrunk.weight, 0.0)])
    return Footprint(
        blocks,
        torch.cat([base, mosaic]),
        num_tiles * side**2,
        shares,
        items=tuple(b.tile for b in blocks),
        num_items=num_tiles,
    )


def _with_newlines(values: Shaped[Tensor, "R C P"], newline: float) -> Shaped[Tensor, "T P"]:
    """Values of the tokens of a grid, line by line, with `newline` for the newline behind each."""
    return torch.nn.functional.pad(values, (0, 0, 0, 1), value=newline).flatten(0, 1)


def _tiles(rows: Int[Tensor, " R"], columns: Int[Tensor, " C"], side: int, grid: Size) -> list[Block]:
    """The blocks of a mosaic whose lines and columns stand at these places, each in the tile that its place is in."""
    out = []
    down, right = rows // side, columns // side
    last = int(right.max())
    for i in down.unique().tolist():
        for j in right.unique().tolist():
            height, width = int((down == i).sum()), int((right == j).sum())
            top, left = int((down == i).nonzero()[0]), int((right == j).nonzero()[0])
            tile = 1 + i * grid[1] + j
            out.append(Block(0, height, width, tile=tile, newlines=j == last, top=top, left=left, mosaic=grid))
    return out
