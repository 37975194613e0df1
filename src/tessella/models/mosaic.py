"""Pictures cut into tiles that are laid together again: the footprint of a thumbnail and a mosaic of tiles."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.image_processing_utils import select_best_resolution

from ..core.layout import THUMBNAIL, Block
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
    interpolation, and its tokens are mixtures of four patches.
    """
    top, left, rows, columns = unpadded(grid[0] * side, grid[1] * side, size)
    ratio = math.sqrt(rows * columns / (most * side**2)) if most is not None else 0.0
    shape = (int(rows // ratio), int(columns // ratio)) if ratio > 1.1 else (rows, columns)
    down, across = _axis(rows, shape[0]), _axis(columns, shape[1])
    sources = down[0].shape[1] * across[0].shape[1]
    # places in the mosaic of the sources of each token, and with which weight
    row = (down[0] + top)[:, None, :, None].expand(-1, shape[1], -1, across[0].shape[1]).reshape(*shape, sources)
    column = (across[0] + left)[None, :, None, :].expand(shape[0], -1, down[0].shape[1], -1).reshape(*shape, sources)
    weight = (down[1][:, None, :, None] * across[1][None, :, None, :]).reshape(*shape, sources)
    patch = (1 + row // side * grid[1] + column // side) * side**2 + row % side * side + column % side
    newline = torch.full((shape[0], 1, sources), -1)
    mosaic = torch.cat([patch, newline], dim=1).reshape(-1, sources)
    shares = torch.cat([weight, torch.zeros(shape[0], 1, sources)], dim=1).reshape(-1, sources)
    base = torch.full((side**2, sources), -1)
    base[:, 0] = torch.arange(side**2)
    patches = torch.cat([base, mosaic])
    tiles = _tiles(down[0][:, 0] + top, across[0][:, 0] + left, side, grid[1])
    blocks = (Block(0, side, side, role=THUMBNAIL), *tiles)
    num_tiles = grid[0] * grid[1] + 1
    return Footprint(
        blocks,
        patches,
        num_tiles * side**2,
        None if sources == 1 else torch.cat([(base >= 0).float(), shares]),
        items=tuple(b.tile for b in blocks),
        num_items=num_tiles,
    )


def _axis(length: int, shrunk: int) -> tuple[Int[Tensor, "S W"], Tensor]:
    """For each place of a line shrunk bilinearly the places it reads, and their weights; one place where it is not."""
    if shrunk == length:
        return torch.arange(length)[:, None], torch.ones(length, 1)
    source = ((torch.arange(shrunk) + 0.5) * (length / shrunk) - 0.5).clamp(min=0)
    low = source.floor().long()
    high = (low + 1).clamp(max=length - 1)
    part = source - low
    return torch.stack([low, high], dim=1), torch.stack([1 - part, part], dim=1)


def _tiles(rows: Int[Tensor, " R"], columns: Int[Tensor, " C"], side: int, across: int) -> list[Block]:
    """The blocks of a mosaic whose lines and columns come from these places, each in the tile that its place is in."""
    out = []
    down, right = rows // side, columns // side
    last = int(right.max())
    for i in down.unique().tolist():
        for j in right.unique().tolist():
            height, width = int((down == i).sum()), int((right == j).sum())
            top, left = int((down == i).nonzero()[0]), int((right == j).nonzero()[0])
            tile = 1 + i * across + j
            out.append(Block(0, height, width, tile=tile, newlines=j == last, top=top, left=left))
    return out
