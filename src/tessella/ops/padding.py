"""Padding of pictures to another shape: how wide it is, and how much of each cell of a grid it covers."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

BLANK = 0.02  # a normalised pixel of the mean colour is at most this far from 0, as 8 bits hold it


def square_margins(width: int, height: int, side: int) -> Float[Tensor, "4"]:
    """Padding above, below, left and right of a picture that was padded to a square and scaled to `side` pixels.

    >>> square_margins(640, 480, 336).tolist()
    [42.0, 42.0, 0.0, 0.0]
    """
    longer = max(width, height)
    above, beside = ((longer - size) / (2 * longer) * side for size in (height, width))
    return torch.tensor([above, above, beside, beside], dtype=torch.float64)


def blank_margins(picture: Float[Tensor, "c h w"]) -> Int[Tensor, "4"]:
    """Lines of pixels above, below, left and right that show nothing but the mean colour, with which processors pad.

    The picture is normalised, so that this colour is near 0. One that shows nothing else has no margins.

    >>> picture = torch.ones(3, 6, 4)
    >>> picture[:, :2] = 0
    >>> blank_margins(picture).tolist()
    [2, 0, 0, 0]
    """
    blank = picture.abs().amax(dim=0) <= BLANK
    rows, columns = blank.all(dim=1), blank.all(dim=0)
    found = torch.stack([_leading(lines) for lines in (rows, rows.flip(0), columns, columns.flip(0))])
    return torch.where(rows.all(), 0, found)


def padded_share(
    margins: Float[Tensor, "4"] | Int[Tensor, "4"], size: tuple[int, int], grid: tuple[int, int]
) -> Float[Tensor, "r c"]:
    """The share of each of `grid` = (rows, columns) cells that lies on the margins of a picture of `size` (h, w).

    >>> padded_share(torch.tensor([3, 0, 0, 2]), (8, 8), (2, 2))
    tensor([[0.7500, 0.8750],
            [0.0000, 0.5000]], dtype=torch.float64)
    """
    above, below, left, right = margins.double().unbind()
    rows, columns = _seen(above, size[0] - below, size[0], grid[0]), _seen(left, size[1] - right, size[1], grid[1])
    return 1 - rows[:, None] * columns


def _leading(lines: Bool[Tensor, " n"]) -> Int[Tensor, ""]:
    """How many True values there are in front of the first False one."""
    return lines.long().cumprod(dim=0).sum()


def _seen(first: Tensor, end: Tensor, length: int, cells: int) -> Float[Tensor, " cells"]:
    """The share of each cell of a line of `length` pixels that lies between two places."""
    cell = length // cells  # as the encoder cuts patches, what is left over is not seen
    start = torch.arange(cells, dtype=torch.float64, device=first.device) * cell
    return (torch.minimum(start + cell, end) - torch.maximum(start, first)).clamp(min=0) / cell
