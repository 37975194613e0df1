"""What became of each patch, panel by panel: a grid of its own, or the tiles of a mosaic put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from PIL import Image

from ..core.errors import LayoutError
from ..core.layout import THUMBNAIL, Block

Indices = Any  # a tensor, an array or a list of patch indices


@dataclass(frozen=True)
class Fate:
    """What became of each patch of one grid: `parent[i]` is i if kept, -1 if dropped, else the patch it went into."""

    rows: int
    columns: int
    parent: tuple[int, ...]

    @property
    def kept(self) -> tuple[int, ...]:
        return tuple(i for i, p in enumerate(self.parent) if p == i)

    @property
    def merged(self) -> tuple[int, ...]:
        return tuple(i for i, p in enumerate(self.parent) if p not in (i, -1))

    @property
    def dropped(self) -> tuple[int, ...]:
        return tuple(i for i, p in enumerate(self.parent) if p == -1)


@dataclass(frozen=True)
class Panel:
    """One grid to draw: one block of an image, or the blocks of its mosaic side by side."""

    blocks: tuple[Block, ...]

    @property
    def rows(self) -> int:
        return max((b.top or 0) + b.rows for b in self.blocks)

    @property
    def columns(self) -> int:
        return max(b.left + b.columns for b in self.blocks)

    @property
    def is_thumbnail(self) -> bool:
        return self.blocks[0].role == THUMBNAIL

    def patches(self, block: Block) -> list[int]:
        """For each token of a block its place in the panel, in raster order; -1 for newlines."""
        first, width = (block.top or 0) * self.columns + block.left, block.columns + int(block.newlines)
        return [
            first + r * self.columns + c if c < block.columns else -1 for r in range(block.rows) for c in range(width)
        ]

    def put_together(self, pieces: Sequence[Image.Image]) -> Image.Image:
        """The panel's picture from one of each block."""
        if len(pieces) == 1:
            return pieces[0]
        pairs = list(zip(self.blocks, pieces, strict=True))
        width = max(1, max(round(piece.width / b.columns) for b, piece in pairs))
        height = max(1, max(round(piece.height / b.rows) for b, piece in pairs))
        out = Image.new("RGB", (self.columns * width, self.rows * height))
        for block, piece in pairs:
            scaled = piece.convert("RGB").resize((block.columns * width, block.rows * height))
            out.paste(scaled, (block.left * width, (block.top or 0) * height))
        return out


def panels_of(blocks: Sequence[Block]) -> list[Panel]:
    """The panels of one image, in order; lone newlines are not drawn."""
    out: list[Panel] = []
    for in_mosaic, group in groupby((b for b in blocks if b.columns), lambda b: b.top is not None):
        here = tuple(group)
        out += [Panel(here)] if in_mosaic else [Panel((b,)) for b in here]
    return out


def read_fate(grid: tuple[int, int], kept: Indices, merged: Indices | None = None) -> Fate:
    """What became of each patch. Raises LayoutError for indices outside the grid or two statements that differ."""
    rows, columns = grid
    total = rows * columns
    if total < 1:
        raise LayoutError(f"a grid needs at least one patch; got {rows} x {columns}.")
    indices = _ints(kept)
    wrong = [i for i in indices if not 0 <= i < total]
    if wrong:
        raise LayoutError(f"kept patch {wrong[0]} lies outside the {rows} x {columns} grid (0 to {total - 1}).")
    if merged is None:
        parent = [-1] * total
    else:
        parent = _ints(merged)
        if len(parent) != total or any(not -1 <= p < total for p in parent):
            raise LayoutError(
                f"merged must hold {total} indices from -1 to {total - 1}, one per patch; got {len(parent)}"
                + (f" from {min(parent)} to {max(parent)}." if parent else ".")
            )
        parent = [-1 if p == i else p for i, p in enumerate(parent)]
    for i in indices:
        parent[i] = i
    return Fate(rows, columns, tuple(parent))


def split_fates(blocks: Sequence[Block], kept: Indices, merged: Indices | None) -> list[Fate]:
    """One fate for each panel of an image, whose tokens count through its blocks.

    A patch merged into another panel counts as dropped here: no line crosses pictures. Raises LayoutError where the
    counts do not match.
    """
    total = sum(b.num_tokens for b in blocks)
    indices = _ints(kept)
    parents = [-1] * total if merged is None else _ints(merged)
    if any(not 0 <= i < total for i in indices) or len(parents) != total:
        raise LayoutError(f"the blocks of this picture hold {total} tokens; kept or merged do not fit.")
    for i in indices:
        parents[i] = i
    starts, start = {}, 0
    for block in blocks:
        starts[block] = start
        start += block.num_tokens
    out = []
    for panel in panels_of(blocks):
        place = {
            starts[block] + n: patch
            for block in panel.blocks
            for n, patch in enumerate(panel.patches(block))
            if patch >= 0
        }
        mine = [-1] * (panel.rows * panel.columns)
        for token, patch in place.items():
            mine[patch] = place.get(parents[token], -1)
        out.append(read_fate((panel.rows, panel.columns), [p for p, q in enumerate(mine) if p == q], mine))
    return out


def _ints(values: Indices) -> list[int]:
    listed = values.tolist() if hasattr(values, "tolist") else values
    return [int(v) for v in listed]
