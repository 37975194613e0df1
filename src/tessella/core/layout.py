"""Where each visual token sits: its slot in the prompt and its image, tile, frame, row, column and role.

A layout is structure, so it lives on the host; counts are plain ints and asking for one never waits for a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .errors import LayoutError

Unit = Literal["tile", "frame", "image", "prompt"]
UNITS: tuple[Unit, ...] = ("tile", "frame", "image", "prompt")

PATCH, NEWLINE, THUMBNAIL, CLASS = 0, 1, 2, 3
ROLES = ("patch", "newline", "thumbnail", "class")

_MANY = 1_000_000  # more than there are tiles or frames
_COLUMNS = ("image", "tile", "frame", "row", "column", "role", "line")


@dataclass(frozen=True)
class Block:
    """One grid of visual tokens of one tile or frame of one image, in raster order.

    `newlines` says that every row ends with one extra token of role newline; with no columns the block is a lone
    newline behind other blocks. `top` and `left` are its place, in tokens, in a mosaic: consecutive blocks of an image
    that have one stand in the prompt row by row of the mosaic, not one after the other. `mosaic` is then how many rows
    and columns of tiles it has, those in the padding too: tile 1 + i * columns + j is in row i and column j.
    """

    image: int
    rows: int
    columns: int
    tile: int = 0
    frame: int = 0
    role: int = PATCH
    newlines: bool = False
    top: int | None = None
    left: int = 0
    mosaic: tuple[int, int] | None = field(default=None, compare=False)  # blocks are told apart without it

    @property
    def num_tokens(self) -> int:
        return self.rows * (self.columns + int(self.newlines))

    @property
    def key(self) -> tuple[int, int, int]:
        """What tells it from the other blocks of a prompt."""
        return self.image, self.tile, self.frame


@dataclass(frozen=True)
class Layout:
    """Positions and roles of visual tokens, `[B, V]` int64 on the CPU, padded at the end with -1.

    `slot` is the index in the full prompt; `image` counts within the prompt; `row` and `column` count in the grid of
    the block; `line` numbers the rows that end with a newline, within the prompt, and is -1 for other tokens; `blocks`
    are the grids of each batch row as they were before anything was removed.
    """

    slot: Int[Tensor, "B V"]
    image: Int[Tensor, "B V"]
    tile: Int[Tensor, "B V"]
    frame: Int[Tensor, "B V"]
    row: Int[Tensor, "B V"]
    column: Int[Tensor, "B V"]
    role: Int[Tensor, "B V"]
    line: Int[Tensor, "B V"]
    num_tokens: tuple[int, ...]
    blocks: tuple[tuple[Block, ...], ...]

    @property
    def mask(self) -> Bool[Tensor, "B V"]:
        """True where a token is real."""
        return self.slot >= 0

    def has(self, role: int) -> bool:
        """Whether there are tokens of a role."""
        return bool((self.role == role).any())

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
        counts = tuple(sum(b.num_tokens for b in row) for row in blocks)
        for index, (row_slots, count) in enumerate(zip(slots, counts, strict=True)):
            if len(row_slots) != count:
                grids = ", ".join(f"({b.rows}, {b.columns})" for b in blocks[index]) or "none"
                raise LayoutError(
                    f"sample {index} has {len(row_slots)} image placeholders but its grids {grids} need {count}."
                )
        width = max(counts, default=0)
        laid = torch.full((len(blocks), len(_COLUMNS), width), -1)
        for row, count, out in zip(blocks, counts, laid, strict=True):
            out[:, :count] = _lay(tuple(row))
        slot = _pad([torch.as_tensor(s, dtype=torch.long).cpu().reshape(-1) for s in slots], width)
        columns = dict(zip(_COLUMNS, laid.unbind(dim=1), strict=True))
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
        counts = tuple((index >= 0).sum(dim=1).tolist())
        blocks = tuple(self._blocks_of(r, picked, u, counts[u]) for u, r in enumerate(source_row))
        return Layout(num_tokens=counts, blocks=blocks, **picked)

    def _blocks_of(self, row: int, picked: dict[str, Tensor], u: int, count: int) -> tuple[Block, ...]:
        if len(self.blocks[row]) == 1:
            return self.blocks[row] if count else ()
        image, tile, frame = (picked[name][u, :count] for name in ("image", "tile", "frame"))
        # a set of host numbers: torch.unique takes several times as long
        present = set(((image * _MANY + tile) * _MANY + frame).tolist())
        return tuple(b for b in self.blocks[row] if (b.image * _MANY + b.tile) * _MANY + b.frame in present)

    def split(self, unit: Unit, without: frozenset[int] = frozenset()) -> Units:
        """Group the tokens, but those of the roles `without`, by prompt, image, tile or frame; worked out once.

        A tile is one grid: a tile of an image, or a frame of a clip.
        """
        if (unit, without) not in self._splits:
            self._splits[unit, without] = self._split(unit, without)
        return self._splits[unit, without]

    @cached_property
    def _splits(self) -> dict[tuple[Unit, frozenset[int]], Units]:
        return {}

    def _split(self, unit: Unit, without: frozenset[int]) -> Units:
        index: list[Tensor] = []
        source_row: list[int] = []
        for b, count in enumerate(self.num_tokens):
            key = self._unit_key(b, count, unit)
            for role in without:
                key = torch.where(self.role[b, :count] == role, -1, key)
            order = torch.argsort(key, stable=True)
            values, sizes = torch.unique_consecutive(key[order], return_counts=True)
            for value, members in zip(values.tolist(), order.split(sizes.tolist()), strict=True):
                if value >= 0:
                    index.append(members)
                    source_row.append(b)
        width = max((len(i) for i in index), default=0)
        padded = _pad(index, width)
        return Units(unit, tuple(source_row), padded, self.gather(padded, source_row)._bare(without), without)

    def _bare(self, without: frozenset[int]) -> Layout:
        """The same with blocks that have no newlines, where those were left out."""
        if NEWLINE not in without:
            return self
        bare = tuple(tuple(replace(b, newlines=False) for b in row if b.columns) for row in self.blocks)
        return replace(self, blocks=bare)

    def _unit_key(self, b: int, count: int, unit: Unit) -> Int[Tensor, " V"]:
        image, tile, frame = (t[b, :count] for t in (self.image, self.tile, self.frame))
        if unit == "prompt":
            return torch.zeros_like(image)
        if unit == "image":
            return image
        if unit == "frame":
            return image * _MANY + frame
        return (image * _MANY + frame) * _MANY + tile


@dataclass(frozen=True)
class Units:
    """The groups among which a method decides: each is one item of the batch that the method sees.

    `index [U, W]` holds, for each group, its tokens' places in the visual tokens of batch row `source_row[u]`. Tokens
    of the roles `without` are in no group.
    """

    unit: Unit
    source_row: tuple[int, ...]
    index: Int[Tensor, "U W"]
    layout: Layout = field(repr=False)
    without: frozenset[int] = frozenset()

    @property
    def num_tokens(self) -> tuple[int, ...]:
        return self.layout.num_tokens

    def __len__(self) -> int:
        return len(self.source_row)


@lru_cache(maxsize=64)
def _lay(blocks: tuple[Block, ...]) -> Int[Tensor, "7 V"]:
    """The tokens of a prompt's blocks in their order, one row for each of `_COLUMNS`."""
    parts: list[Tensor] = []
    num_lines = 0
    for is_mosaic, run in _runs(blocks):
        rows = max((b.top or 0) + b.rows for b in run) if is_mosaic else len(run) * run[0].rows
        part = _lay_mosaic(run, rows) if is_mosaic else _lay_alike(run)
        if any(b.newlines and b.columns for b in run):
            part[-1] += num_lines
            num_lines += rows
        else:
            part[-1] = -1
        parts.append(part)
    return torch.cat(parts, dim=1) if parts else torch.empty(len(_COLUMNS), 0, dtype=torch.long)


def _runs(blocks: tuple[Block, ...]) -> list[tuple[bool, list[Block]]]:
    """Blocks that are laid together: those of a mosaic, or alike ones that follow each other."""

    def key(b: Block) -> tuple[object, ...]:
        return (b.image,) if b.top is not None else (b.rows, b.columns, b.role, b.newlines, None)

    return [(run[0].top is not None, run) for run in (list(g) for _, g in groupby(blocks, key))]


def _lay_alike(blocks: Sequence[Block]) -> Int[Tensor, "7 V"]:
    """The tokens of blocks of one shape, block after block; lines are numbered through them."""
    first, count = blocks[0], len(blocks)
    width = first.columns + int(first.newlines)
    out = torch.empty(len(_COLUMNS), count, first.rows, width, dtype=torch.long)
    _fill(out[:, 0], first, width)
    out[3:, 1:] = out[3:, :1]
    out[:3] = torch.tensor([b.key for b in blocks], dtype=torch.long).T[:, :, None, None]
    out[-1] = torch.arange(count * first.rows).view(count, first.rows, 1)
    return out.flatten(1)


def _lay_mosaic(blocks: Sequence[Block], rows: int) -> Int[Tensor, "7 V"]:
    """The tokens of blocks that fill a rectangle, row by row of it."""
    out = torch.empty(len(_COLUMNS), rows, max(b.left + b.columns + int(b.newlines) for b in blocks), dtype=torch.long)
    for block in blocks:
        width, top = block.columns + int(block.newlines), block.top or 0
        _fill(out[:, top : top + block.rows, block.left : block.left + width], block, width)
    out[-1] = torch.arange(rows)[:, None]
    return out.flatten(1)


def _fill(part: Int[Tensor, "7 R C"], block: Block, width: int) -> None:
    """Write a block's tokens, but for their lines, into its part of a rectangle."""
    for row, number in zip(part, block.key, strict=False):
        row.fill_(number)
    part[3] = torch.arange(block.rows)[:, None]
    part[4] = torch.arange(width)
    part[5].fill_(block.role)
    if block.newlines:
        part[5, :, block.columns :] = NEWLINE


def _pad(rows: Sequence[Tensor], width: int) -> Int[Tensor, "B V"]:
    out = torch.full((len(rows), width), -1, dtype=torch.long)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out
