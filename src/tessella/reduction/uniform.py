"""Uniform: keep tokens on a regular lattice, whatever the picture shows.

Paper    none: a baseline
Acts     connector, or prefill in front of decoder layer `at_layer`; once
Needs    the grid (`stride1d`: nothing; `border_less`: pixels too)
Differs  the specification's `per` is the scope of the budget: `uniform:64 per tile` lays 64 in each crop, and by
         default an image's count is divided over its crops. `border_less` calls rows and columns at the border padding
         when each channel of their pixels has one value, and comes back to them only when nothing else is left
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.budget import Counts, on_device
from ..core.cards import Card
from ..core.contracts import Selector
from ..core.errors import MethodError
from ..core.model_info import ModelInfo
from ..core.registry import register
from ..core.view import View
from ..ops.grids import shape_of, stride

MODES = ("grid2d", "stride1d", "border_less")
Box = tuple[int, int, int, int]  # first row, first column, rows, columns


@register
@dataclass(frozen=True)
class Uniform(Selector):
    at_layer: int = 0  # 0: at the connector
    mode: str = "grid2d"

    card = Card(title="Uniform", stages=("connector", "prefill"), baseline=True, needs=("grid",))

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise MethodError(f"uniform: mode must be one of {', '.join(MODES)}; got {self.mode!r}.")

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return {"grid2d": ("grid",), "stride1d": (), "border_less": ("grid", "pixels")}[self.mode]

    def select(self, view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """The lattice of each item's grid, ascending."""
        if self.mode == "stride1d":
            picks = [stride(n, k) for n, k in zip(counts.num_tokens, counts.num_keep, strict=True)]
        else:
            grids = view.layout.grids
            boxes = borderless(view.pixels(), grids) if self.mode == "border_less" else [(0, 0, *g) for g in grids]
            picks = [lattice(*g, k, box) for g, k, box in zip(grids, counts.num_keep, boxes, strict=True)]
        rows = [[*p, *[-1] * (counts.most - len(p))] for p in picks]
        return on_device([i for row in rows for i in row], view.device).reshape(len(rows), counts.most)


@lru_cache(maxsize=1024)
def lattice(rows: int, columns: int, num_keep: int, box: Box) -> tuple[int, ...]:
    """`num_keep` raster indices: a lattice inside the box, then one by one the token farthest from those kept.

    Distance is Chebyshev's on the grid; of equally far tokens the lower index; tokens outside the box come last.
    """
    if num_keep == 0:
        return ()
    top, left, height, width = box
    inside = min(num_keep, height * width)
    r, c = shape_of(height, width, inside)
    kept_rows = torch.tensor([top + s for s in stride(height, r)])
    kept_columns = torch.tensor([left + s for s in stride(width, c)])
    row, column = torch.arange(rows), torch.arange(columns)
    vertical = (row[:, None] - kept_rows).abs().amin(dim=1)
    horizontal = (column[:, None] - kept_columns).abs().amin(dim=1)
    distance = torch.maximum(vertical[:, None], horizontal)  # to the nearest kept token: the lattice is a product
    in_box = ((row >= top) & (row < top + height))[:, None] & (column >= left) & (column < left + width)
    kept = distance == 0
    for taken in range(r * c, num_keep):
        open_tokens = in_box & ~kept if taken < inside else ~kept
        index = int(torch.where(open_tokens, distance, -1).argmax())
        kept.view(-1)[index] = True
        to_new = torch.maximum((row - index // columns).abs()[:, None], (column - index % columns).abs())
        distance = torch.minimum(distance, to_new)
    return tuple(kept.view(-1).nonzero()[:, 0].tolist())


def borderless(pixels: Float[Tensor, "B c h w"], grids: Sequence[tuple[int, int]]) -> list[Box]:
    """The box of each grid without border rows and columns of one colour; the whole grid if nothing else is there."""
    boxes: list[Box] = []
    for picture, (rows, columns) in zip(pixels, grids, strict=True):
        top, height = _inner(_plain_lines(picture), rows)
        left, width = _inner(_plain_lines(picture.transpose(1, 2)), columns)
        boxes.append((top, left, height, width) if height and width else (0, 0, rows, columns))
    return boxes


def _plain_lines(picture: Float[Tensor, "c h w"]) -> list[bool]:
    """Whether each row of pixels has one value in every channel."""
    return (picture.amax(dim=2) == picture.amin(dim=2)).all(dim=0).tolist()


def _inner(plain: list[bool], cells: int) -> tuple[int, int]:
    """First cell and number of cells left between plain borders, of `cells` equal stretches of lines."""
    size = len(plain)
    full = [not all(plain[i * size // cells : (i + 1) * size // cells]) for i in range(cells)]
    if not any(full):
        return 0, 0
    first, last = full.index(True), cells - 1 - full[::-1].index(True)
    return first, last - first + 1
