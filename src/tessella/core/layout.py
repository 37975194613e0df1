"""Where each visual token sits: its slot in the prompt and its image, tile, frame, row, column and role.

A layout is structure, so it lives on the host; counts are plain ints and asking for one never waits for a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .errors import LayoutError

Unit = Literal["tile", "frame", "image", "prompt"]
UNITS: tuple[Unit, ...] = ("tile", "frame", "image", "prompt")

PATCH, NEWLINE, THUMBNAIL, CLASS = 0, 1, 2, 3
ROLES = ("patch", "newline", "thumbnail", "class")


@dataclass(frozen=True)
class Block:
    """One grid of visual tokens of one tile or frame of one image, in raster order.

    `newlines` says that every row ends with one extra token of role newline.
    """

    image: int
    rows: int
    columns: int
    tile: int = 0
    frame: int = 0
    role: int = PATCH
    newlines: bool = False

    @property
    def num_tokens(self) -> int:
        return self.rows * (self.columns + int(self.newlines))


@dataclass(frozen=True)
class Layout:
    """Positions and roles of visual tokens, `[B, V]` int64 on the CPU, padded at the end with -1.

    `slot` is the index in the full prompt; `image` counts within the prompt; `row` and `column` count in the grid of
    the block; `blocks` are the grids of each batch row as they were before anything was removed.
    """

    slot: Int[Tensor, "B V"]
    image: Int[Tensor, "B V"]
    tile: Int[Tensor, "B V"]
    frame: Int[Tensor, "B V"]
    row: Int[Tensor, "B V"]
    column: Int[Tensor, "B V"]
    role: Int[Tensor, "B V"]
    num_tokens: tuple[int, ...]
    blocks: tuple[tuple[Block, ...], ...]

    @property
    def mask(self) -> Bool[Tensor, "B V"]:
        """True where a token is real."""
        return self.slot >= 0

    @property
    def num_images(self) -> tuple[int, ...]:
        """Images of each batch row."""
        return tuple(len({b.image for b in blocks}) for blocks in self.blocks)

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """(rows, columns) of each batch row; raises LayoutError unless each is one untouched grid of patches."""
        out = []
        for index, (blocks, count) in enumerate(zip(self.blocks, self.num_tokens, strict=True)):
            if len(blocks) != 1 or blocks[0].newlines or blocks[0].num_tokens != count:
                whole = sum(b.num_tokens for b in blocks)
                raise LayoutError(
                    f"a whole grid is needed; item {index} has {count} tokens of {len(blocks)} grid(s) with {whole} "
                    "places. Put the grid method first in the pipeline, or give it scope 'tile'."
                )
            out.append((blocks[0].rows, blocks[0].columns))
        return tuple(out)

    @classmethod
    def build(cls, slots: Sequence[Sequence[int] | Tensor], blocks: Sequence[Sequence[Block]]) -> Layout:
        """Lay the tokens of each row's blocks, in order, on that row's placeholder slots.

        Raises LayoutError when a row has more or fewer slots than its blocks need.
        """
        parts = [[_lay(block) for block in row] for row in blocks]
        counts = tuple(sum(b.num_tokens for b in row) for row in blocks)
        for index, (row_slots, count) in enumerate(zip(slots, counts, strict=True)):
            if len(row_slots) != count:
                grids = ", ".join(f"({b.rows}, {b.columns})" for b in blocks[index]) or "none"
                raise LayoutError(
                    f"sample {index} has {len(row_slots)} image placeholders but its grids {grids} need {count}."
                )
        width = max(counts, default=0)
        columns = {}
        for name in ("image", "tile", "frame", "row", "column", "role"):
            rows = [torch.cat([p[name] for p in part]) if part else torch.empty(0, dtype=torch.long) for part in parts]
            columns[name] = _pad(rows, width)
        slot = _pad([torch.as_tensor(s, dtype=torch.long).cpu().reshape(-1) for s in slots], width)
        return cls(slot=slot, num_tokens=counts, blocks=tuple(tuple(b) for b in blocks), **columns)

    @classmethod
    def single(cls, batch: int, rows: int, columns: int, first_slot: int = 0) -> Layout:
        """The layout of `batch` prompts with one image of one `(rows, columns)` grid each."""
        block = Block(image=0, rows=rows, columns=columns)
        slots = range(first_slot, first_slot + rows * columns)
        return cls.build([slots] * batch, [[block]] * batch)

    def gather(self, index: Int[Tensor, "U W"], source_row: Sequence[int]) -> Layout:
        """Tokens `index` (padded with -1) of the batch rows `source_row`, as a new layout of U items."""
        rows = torch.as_tensor(list(source_row), dtype=torch.long)
        picked = {
            f.name: torch.where(index >= 0, getattr(self, f.name)[rows[:, None], index.clamp(min=0)], -1)
            for f in fields(self)
            if f.name not in ("num_tokens", "blocks")
        }
        counts = tuple(int(c) for c in (index >= 0).sum(dim=1))
        blocks = tuple(self._blocks_of(r, picked, u, counts[u]) for u, r in enumerate(source_row))
        return Layout(num_tokens=counts, blocks=blocks, **picked)

    def _blocks_of(self, row: int, picked: dict[str, Tensor], u: int, count: int) -> tuple[Block, ...]:
        # a set of host numbers: torch.unique over rows takes forty times as long
        present = set(zip(*(picked[name][u, :count].tolist() for name in ("image", "tile", "frame")), strict=True))
        return tuple(b for b in self.blocks[row] if (b.image, b.tile, b.frame) in present)

    def split(self, unit: Unit) -> Units:
        """Group the tokens by prompt, image, tile or frame; worked out once for each."""
        if unit not in self._splits:
            self._splits[unit] = self._split(unit)
        return self._splits[unit]

    @cached_property
    def _splits(self) -> dict[Unit, Units]:
        return {}

    def _split(self, unit: Unit) -> Units:
        index: list[Tensor] = []
        source_row: list[int] = []
        for b, count in enumerate(self.num_tokens):
            key = self._unit_key(b, count, unit)
            for value in torch.unique(key).tolist():
                index.append((key == value).nonzero().reshape(-1))
                source_row.append(b)
        width = max((len(i) for i in index), default=0)
        padded = _pad(index, width)
        return Units(unit, tuple(source_row), padded, self.gather(padded, source_row))

    def _unit_key(self, b: int, count: int, unit: Unit) -> Int[Tensor, " V"]:
        image, tile, frame = (t[b, :count] for t in (self.image, self.tile, self.frame))
        if unit == "prompt":
            return torch.zeros_like(image)
        if unit == "image":
            return image
        return image * 1_000_000 + (tile if unit == "tile" else frame)


@dataclass(frozen=True)
class Units:
    """The groups among which a method decides: each is one item of the batch that the method sees.

    `index [U, W]` holds, for each group, its tokens' places in the visual tokens of batch row `source_row[u]`.
    """

    unit: Unit
    source_row: tuple[int, ...]
    index: Int[Tensor, "U W"]
    layout: Layout = field(repr=False)

    @property
    def num_tokens(self) -> tuple[int, ...]:
        return self.layout.num_tokens

    def __len__(self) -> int:
        return len(self.source_row)


def _lay(block: Block) -> dict[str, Tensor]:
    width = block.columns + int(block.newlines)
    row = torch.arange(block.rows).repeat_interleave(width)
    column = torch.arange(width).repeat(block.rows)
    role = torch.full_like(row, block.role)
    if block.newlines:
        role[column == block.columns] = NEWLINE
    constant = {n: torch.full_like(row, getattr(block, n)) for n in ("image", "tile", "frame")}
    return {**constant, "row": row, "column": column, "role": role}


def _pad(rows: Sequence[Tensor], width: int) -> Int[Tensor, "B V"]:
    out = torch.full((len(rows), width), -1, dtype=torch.long)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out
