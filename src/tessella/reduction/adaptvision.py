"""AdaptVision: as many tiles as a picture is large, 1 to 3 a side, beside a view of the whole.

Paper    Wang et al., August 2024, arXiv:2408.16986
Acts     input: the picture is resized to whole tiles; the whole and the tiles are encoded, each tile on fewer tokens
Needs    pixels, and a model that takes several grids in the place of a picture
Differs  planner only: the partition is the paper's, its trained parts are not there. Instead of two encoders one reads
         the whole and the tiles; instead of folding four consecutive tokens into one by trained weights a tile's grid
         is averaged, 2 x 2 tokens to one (`folded` is the reshape in front of those weights); no tags between the
         grids. Antialiased bicubic resizing of normalised pixels, where the paper has Lanczos. The processor must leave
         the picture large, as by `do_resize=False, do_center_crop=False`: one no larger than a tile is encoded twice,
         as in the paper. There are two other methods of this name
Names    shard: the paper's s, by default the side of the pictures that the encoder was made for; max_grid: g
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import Rewriter
from ..core.errors import MethodError
from ..core.layout import THUMBNAIL
from ..core.registry import register
from ..core.rewriting import Draft, Grid
from ..ops.pixels import cut_tiles, resized_to

WHOLE = (0, 0)


@dataclass(frozen=True)
class Partition:
    """`rows` x `columns` tiles of `shard` pixels a side."""

    shard: int
    rows: int
    columns: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the resized picture."""
        return self.columns * self.shard, self.rows * self.shard

    @property
    def tags(self) -> list[tuple[int, int]]:
        """(row, column) of each view in their order, from 1; (0, 0) for the whole."""
        return [WHOLE, *((r + 1, c + 1) for r in range(self.rows) for c in range(self.columns))]


@register
@dataclass(frozen=True)
class AdaptVision(Rewriter):
    max_grid: int = 3
    shard: int | None = None  # pixels along a side of a tile

    card = Card(
        title="AdaptVision",
        stages=("input",),
        paper="2408.16986",
        year=2024,
        needs=("pixels", "grid", "sizes", "several_grids"),
        count="adaptive",
        count_reason="the tokens of the whole and a quarter as many for each of 1 to 9 tiles, by the picture's size",
        takes_keep=False,
        nearest="downsample",
    )

    def __post_init__(self) -> None:
        for name, value in (("max_grid", self.max_grid), ("shard", self.shard)):
            if value is not None and value < 1:
                raise MethodError(f"adaptvision: {name} must be at least 1; got {value}.")

    def rewrite(self, draft: Draft, counts: Counts) -> Draft:
        """The whole and its tiles in the place of every picture."""
        shard, token = self.shard or draft.native_size()[0], draft.picture_size(1, 1)[0]
        if shard % token:
            raise MethodError(f"adaptvision: shard must be a multiple of the {token} pixels of a token; got {shard}.")
        plans = [partition(p.shape[2], p.shape[1], shard, self.max_grid) for p in draft.pictures]
        views = [view for p, plan in zip(draft.pictures, plans, strict=True) for view in views_of(p, plan)]
        side = shard // token
        encoded = iter(zip(draft.encode(views), views, strict=True))
        return draft.replace([[tuple(_grid(*next(encoded), side, tag) for tag in plan.tags)] for plan in plans])


def partition(width: int, height: int, shard: int, max_grid: int) -> Partition:
    """The tiles of a picture: as many along its long side as it has shards, along the other in proportion, rounded up.

    >>> partition(337, 300, shard=336, max_grid=3).size, partition(5000, 100, shard=336, max_grid=3).size
    ((672, 672), (1008, 336))
    """
    longer, shorter = max(width, height), min(width, height)
    along = min(math.ceil(longer / shard), max_grid)
    other = max(along * shard * shorter // longer, 1)
    across = min(math.ceil(other / shard), max_grid)
    rows, columns = (along, across) if height >= width else (across, along)
    return Partition(shard, rows, columns)


def views_of(picture: Float[Tensor, "c _ _"], plan: Partition) -> list[Float[Tensor, "c s s"]]:
    """The whole picture at the size of a shard, then its tiles in raster order, in the order of the plan's tags."""
    width, height = plan.size
    large = resized_to(picture, height, width)
    return [resized_to(large, plan.shard, plan.shard), *cut_tiles(large, plan.shard).flatten(0, 1)]


def folded(tokens: Float[Tensor, "N C"], fold: int = 4) -> Float[Tensor, "N/4 4*C"]:
    """Consecutive tokens of a row side by side, as the paper's trained layer `down_vision` would take them."""
    return tokens.unflatten(0, (-1, fold)).flatten(1)


def _grid(tokens: Float[Tensor, "N C"], view: Float[Tensor, "c s s"], side: int, tag: tuple[int, int]) -> Grid:
    """The grid of a view: the whole as it is, a tile at half as many tokens a side, rounded up."""
    if tag == WHOLE:
        return Grid(tokens, side, side, view, role=THUMBNAIL)
    planes = tokens.float().T.unflatten(1, (side, side))
    small = avg_pool2d(planes, 2, ceil_mode=True, count_include_pad=False).flatten(1).T.to(tokens.dtype)
    half = math.ceil(side / 2)
    return Grid(small, half, half, view)
