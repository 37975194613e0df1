"""Pool: average the grid of tokens over the cells of a smaller grid, whatever the picture shows.

Paper    none: a baseline
Acts     connector, once; pooled features then pass the connector (`space="projected"`: tokens behind it are pooled)
Needs    features before the connector (`space="projected"`: nothing more than the tokens), and the grid
Differs  the specification's tiles and frames, each pooled on its own, are the scopes `tile` and `frame`; by default an
         image's count is divided over its tiles. A scope that joins several grids is refused
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..core.budget import Counts, on_device
from ..core.cards import Card
from ..core.contracts import Merger, mask_of
from ..core.errors import MethodError
from ..core.model_info import ModelInfo
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import View
from ..ops.grids import shape_of, spans

Grid = tuple[int, int]
SPACES = ("encoder", "projected")


@register
@dataclass(frozen=True)
class Pool(Merger):
    space: str = "encoder"  # what is averaged: features before the connector, or tokens behind it

    card = Card(
        title="Pool",
        stages=("connector",),
        baseline=True,
        needs=("features", "grid"),
        count="at_most",
        count_reason="rows x columns of the pooled grid, the largest that fits the count with nearly square cells",
    )

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise MethodError(f"pool: space must be one of {', '.join(SPACES)}; got {self.space!r}.")

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return ("features", "grid") if self.space == "encoder" else ("grid",)

    def merge(self, view: View, counts: Counts) -> Reduction:
        """Means of the cells, each at the slot nearest to the centre of its cell."""
        grids = view.layout.grids
        shapes = [shape_of(*g, k) if k else (0, 0) for g, k in zip(grids, counts.num_keep, strict=True)]
        weights = cell_weights(grids, shapes, view.mask.shape[1]).to(view.device, non_blocking=True)
        slots = cell_slots(grids, shapes).to(view.device, non_blocking=True)
        tokens = view.features() if self.space == "encoder" else view.tokens.embeddings
        keep = mask_of(slots, view.mask.shape[1])
        num_kept = tuple(r * c for r, c in shapes)
        return Reduction(
            keep=keep,
            num_kept=num_kept,
            embeddings=pooled(tokens, grids, shapes),
            space=self.space,  # type: ignore[arg-type]
            source=source_of(keep, slots, weights),
            weights=weights,
        )


def pooled(tokens: Float[Tensor, "B V C"], grids: Sequence[Grid], shapes: Sequence[Grid]) -> Float[Tensor, "B K C"]:
    """Adaptive average pooling of each item's grid to its shape, in raster order; items of one size at once."""
    out = tokens.new_zeros(len(tokens), max((r * c for r, c in shapes), default=0), tokens.shape[2])
    for grid, shape in dict.fromkeys(zip(grids, shapes, strict=True)):
        if 0 in shape:
            continue
        mine = [b for b, both in enumerate(zip(grids, shapes, strict=True)) if both == (grid, shape)]
        items = on_device(mine, tokens.device)
        maps = tokens[items, : grid[0] * grid[1]].transpose(1, 2).unflatten(2, grid)
        out[items, : shape[0] * shape[1]] = adaptive_avg_pool2d(maps, shape).flatten(2).transpose(1, 2)
    return out


def cell_weights(grids: Sequence[Grid], shapes: Sequence[Grid], width: int) -> Float[Tensor, "B K {width}"]:
    """Share of each token in each cell: a token of m cells gives 1/m to each, so that an item's shares sum to N."""
    out = torch.zeros(len(grids), max((r * c for r, c in shapes), default=0), width)
    for b, (grid, shape) in enumerate(zip(grids, shapes, strict=True)):
        down, across = (_shares(n, k) for n, k in zip(grid, shape, strict=True))
        out[b, : shape[0] * shape[1], : grid[0] * grid[1]] = torch.kron(down, across)
    return out


def cell_slots(grids: Sequence[Grid], shapes: Sequence[Grid]) -> Int[Tensor, "B K"]:
    """Token nearest to the centre of each cell, the lower of two equally near; padded with -1."""
    out = torch.full((len(grids), max((r * c for r, c in shapes), default=0)), -1)
    for b, (grid, shape) in enumerate(zip(grids, shapes, strict=True)):
        row, column = (
            torch.tensor([(first + end - 1) // 2 for first, end in spans(n, k)], dtype=torch.long)
            for n, k in zip(grid, shape, strict=True)
        )
        out[b, : shape[0] * shape[1]] = (row[:, None] * grid[1] + column).flatten()
    return out


def source_of(
    keep: Bool[Tensor, "B V"], slots: Int[Tensor, "B K"], weights: Float[Tensor, "B K V"]
) -> Int[Tensor, "B V"]:
    """Slot that holds each token: its own if kept, else that of the first cell it lies in; -1 for padding."""
    if slots.shape[1] == 0:
        return torch.full_like(keep, -1, dtype=torch.long)
    itself = torch.arange(keep.shape[1], device=keep.device)
    share, first = weights.max(dim=1)
    return torch.where(keep, itself, torch.where(share > 0, slots.gather(1, first), -1))


@lru_cache(maxsize=1024)
def _shares(length: int, num_cells: int) -> Float[Tensor, "{num_cells} {length}"]:
    """Share of each place of a line in each of its cells."""
    member = torch.zeros(num_cells, length)
    for cell, (first, end) in enumerate(spans(length, num_cells)):
        member[cell, first:end] = 1
    return member / member.sum(dim=0).clamp(min=1)
