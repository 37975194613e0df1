"""Places of tokens in pictures of a thumbnail and a mosaic of tiles."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.errors import LayoutError
from ..core.layout import THUMBNAIL, Block, Layout
from .selection import mask_indices, pad_indices

_MANY = 1_000_000  # more than there are tiles


@dataclass(frozen=True)
class Places:
    """Where the tokens of B items lie. A cell is a tile of the whole mosaic, those in the padding too.

    - `group [B, V]`: the grid of each token in the order of the layout's blocks, -1 for padding.
    - `sizes [B, G]`: tokens of each grid; 0 is padding.
    - `cell [B, G]`: the cell of each grid; -1 where it has no place in a mosaic.
    - `num_cells [B, 1]`: cells of each item; 0 without a mosaic. `most_cells` is the largest of them.
    - `shown [B, V]`: the cell that a token of the thumbnail shows; -1 for other tokens.
    - `thumbnail [B, R, C]`: tokens of the thumbnails of mosaics; -1 where an item has none.
    - `at [B, V, 2]`: middle of each token across and down what is left of the mosaic, from -1 to 1.
    """

    group: Int[Tensor, "B V"]
    sizes: Int[Tensor, "B G"]
    cell: Int[Tensor, "B G"]
    num_cells: Int[Tensor, "B 1"]
    most_cells: int
    shown: Int[Tensor, "B V"]
    thumbnail: Int[Tensor, "B R C"]
    at: Float[Tensor, "B V 2"]

    @property
    def is_placed(self) -> Bool[Tensor, "B V"]:
        """True for tokens of tiles that have a place in a mosaic."""
        return (self.cell.gather(1, self.group.clamp(min=0)) >= 0) & (self.group >= 0)


def places_of(layout: Layout, device: torch.device) -> Places:
    """The places of all tokens, worked out on the host.

    The thumbnail is cut into as many cells as the mosaic has tiles, remainders to the last row and column of them.
    Raises LayoutError unless each item is one whole picture without newlines, with its thumbnail where it is a mosaic.

    >>> tiles = [Block(0, 2, 2, tile=1 + j, top=0, left=2 * j, mosaic=(1, 2)) for j in (0, 1)]
    >>> layout = Layout.build([range(12)], [[Block(0, 2, 2, role=THUMBNAIL), *tiles]])
    >>> places = places_of(layout, torch.device("cpu"))
    >>> places.group[0].tolist(), places.cell[0].tolist(), places.shown[0, :4].tolist()
    ([0, 0, 0, 0, 1, 1, 2, 2, 1, 1, 2, 2], [-1, 0, 1], [0, 1, 0, 1])
    """
    _check(layout)
    cpu = layout.slot.device

    def table(rows: list[list[int]], fill: int) -> Int[Tensor, "B G"]:
        padded = pad_indices(rows, cpu)
        return torch.where(torch.arange(padded.shape[1]) < torch.tensor([len(r) for r in rows])[:, None], padded, fill)

    blocks = layout.blocks
    names = table([[b.frame * _MANY + b.tile for b in row] for row in blocks], -2)
    same = names[:, :, None] == (layout.frame * _MANY + layout.tile)[:, None, :]
    group = torch.where(layout.mask, same.to(torch.int8).argmax(dim=1), -1)
    grids = torch.tensor([next((b.mosaic for b in row if b.mosaic), (0, 0)) for row in blocks])
    thumbs = torch.tensor([_thumbnail(row) for row in blocks])
    cells, sides = (t[:, :, None].clamp(min=1) for t in (grids, thumbs))  # [B, 2, 1]
    line = torch.stack([layout.row, layout.column], dim=1)  # [B, 2, V]
    part = torch.minimum(line // (sides // cells).clamp(min=1), cells - 1)
    is_thumb = layout.mask & (layout.role == THUMBNAIL) & (thumbs[:, :1] > 0)
    corner = torch.stack([table([[getattr(b, n) or 0 for b in row] for row in blocks], 0) for n in ("top", "left")], 1)
    ends = torch.tensor([_ends(row) for row in blocks])[:, :, None].clamp(min=1)
    there = corner.gather(2, group.clamp(min=0)[:, None].expand(-1, 2, -1)) + line
    rows, columns = thumbs.amax(dim=0).tolist()
    host = {
        "group": group,
        "sizes": table([[b.num_tokens for b in row] for row in blocks], 0),
        "cell": table([[b.tile - 1 if b.mosaic else -1 for b in row] for row in blocks], -1),
        "num_cells": grids.prod(dim=1, keepdim=True),
        "shown": torch.where(is_thumb, part[:, 0] * cells[:, 1] + part[:, 1], -1),
        "thumbnail": mask_indices(is_thumb, rows * columns).unflatten(1, (rows, columns)),
        "at": ((2 * there + 1) / ends - 1).flip(1).transpose(1, 2),
    }
    on_device = {name: value.to(device, non_blocking=True) for name, value in host.items()}
    return Places(most_cells=int(grids.prod(dim=1).amax()), **on_device)


def _check(layout: Layout) -> None:
    for index, (blocks, count) in enumerate(zip(layout.blocks, layout.num_tokens, strict=True)):
        whole = sum(b.num_tokens for b in blocks)
        if layout.num_images[index] > 1 or whole != count or any(b.newlines for b in blocks):
            raise LayoutError(
                f"a whole picture without newlines is needed; item {index} has {count} tokens of "
                f"{layout.num_images[index]} picture(s) with {whole} places. Put this method first in the pipeline, "
                "with scope 'image', and let newlines not compete."
            )
        if any(b.mosaic for b in blocks) and not any(b.role == THUMBNAIL for b in blocks):
            raise LayoutError(
                f"tiles need their picture's thumbnail beside them; item {index} has none. Leave scope at 'image', and "
                "let thumbnails compete."
            )


def _thumbnail(blocks: tuple[Block, ...]) -> tuple[int, int]:
    """Rows and columns of the thumbnail of a mosaic; (0, 0) where there is no mosaic."""
    if not any(b.mosaic for b in blocks):
        return 0, 0
    return next((b.rows, b.columns) for b in blocks if b.role == THUMBNAIL)


def _ends(blocks: tuple[Block, ...]) -> tuple[int, int]:
    """Rows and columns that are left of a mosaic."""
    tiles = [b for b in blocks if b.mosaic]
    return max(((b.top or 0) + b.rows for b in tiles), default=0), max((b.left + b.columns for b in tiles), default=0)
