"""A grid of tokens `[rows, columns, C]` as a grid of at most `count` tokens, in five ways."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from .matching import merge_to


def proportional_shape(rows: int, columns: int, count: int) -> tuple[int, int]:
    """Rows and columns of at most `count` >= 1 tokens in the proportions of a grid; one row more where that fits.

    >>> proportional_shape(27, 27, 59), proportional_shape(27, 27, 378), proportional_shape(10, 20, 50)
    ((8, 7), (19, 19), (5, 10))
    """
    high = max(math.isqrt(count * rows // columns), 1)
    wide = min(max(math.isqrt(count * columns // rows), 1), count)
    high = min(high, count // wide)
    return (high + 1, wide) if (high + 1) * wide <= count else (high, wide)


def interpolated(grid: Float[Tensor, "r c C"], count: int) -> Float[Tensor, "_ _ C"]:
    """Bilinear, without antialiasing; there may be more tokens than there were.

    >>> interpolated(torch.randn(4, 4, 8), 6).shape
    torch.Size([3, 2, 8])
    """
    size = proportional_shape(grid.shape[0], grid.shape[1], count)
    return interpolate(grid.permute(2, 0, 1)[None], size=size, mode="bilinear", align_corners=False)[0].permute(1, 2, 0)


def averaged(grid: Float[Tensor, "r c C"], count: int) -> Float[Tensor, "_ _ C"]:
    """Means over the cells of adaptive pooling.

    >>> averaged(torch.arange(4.0).view(2, 2, 1), 1)
    tensor([[[1.5000]]])
    """
    size = proportional_shape(grid.shape[0], grid.shape[1], count)
    return adaptive_avg_pool2d(grid.permute(2, 0, 1)[None], size)[0].permute(1, 2, 0)


def spaced(grid: Float[Tensor, "r c C"], count: int) -> Float[Tensor, "1 {count} C"]:
    """Tokens evenly spaced over the raster order, the first and the last included.

    >>> spaced(torch.arange(6.0).view(2, 3, 1), 3).flatten()
    tensor([0., 2., 5.])
    """
    tokens = grid.flatten(0, 1)
    return tokens[torch.linspace(0, len(tokens) - 1, count, device=grid.device).long()][None]


def merged(grid: Float[Tensor, "r c C"], count: int) -> Float[Tensor, "1 {count} C"]:
    """The most similar of alternating tokens merged, round after round, whatever their rows.

    >>> merged(torch.randn(3, 3, 8), 4).shape
    torch.Size([1, 4, 8])
    """
    return merge_to(grid.flatten(0, 1)[None], count)[0]


def merged_by_line(grid: Float[Tensor, "r c C"], count: int) -> Float[Tensor, "_ _ C"]:
    """The same within rows, then within columns, so that a grid is left, whose tokens stand in the order of places.

    >>> merged_by_line(torch.randn(4, 4, 8), 6).shape
    torch.Size([3, 2, 8])
    """
    high, wide = proportional_shape(grid.shape[0], grid.shape[1], count)
    narrow = _in_order(*merge_to(grid, min(wide, grid.shape[1])))
    return _in_order(*merge_to(narrow.transpose(0, 1), min(high, grid.shape[0]))).transpose(0, 1)


def _in_order(tokens: Float[Tensor, "B M C"], places: Int[Tensor, "B M"]) -> Float[Tensor, "B M C"]:
    return tokens.gather(1, places.argsort(dim=1)[:, :, None].expand_as(tokens))
