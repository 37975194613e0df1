"""Clips that a model pools behind its connector: the connector's rows of each unit, and where each patch is in them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ..core.layout import Block, Layout, Units
from .sources import Origin, Sources

Pool = Callable[[Float[Tensor, "B P C"]], Float[Tensor, "B V C"]]


@dataclass(frozen=True)
class PatchRows:
    """The rows of B units: of pooled ones all patches of their frames, of others their tokens. It lives on the host.

    - `is_pooled [B]`: which units are pooled.
    - `patch [B, P]`: the number of each row of those among the patches of all pictures, and `given [B, P]` among the
      rows that the connector was given; 0 for none.
    - `row [N]`: for each patch its row in its unit.
    - `layout`: the grids of the rows.
    """

    is_pooled: Bool[Tensor, " B"]
    patch: Int[Tensor, "B P"]
    given: Int[Tensor, "B P"]
    row: Int[Tensor, " N"]
    layout: Layout

    def beside(self, rows: Shaped[Tensor, "B P *rest"], tokens: Shaped[Tensor, "B V *rest"]) -> Tensor:
        """Values `[B, P, ...]` of the rows: those given for pooled units, and of others those of their tokens."""
        missing = self.patch.shape[1] - tokens.shape[1]
        tokens = torch.nn.functional.pad(tokens, [0, 0] * (tokens.ndim - 2) + [0, missing])
        is_pooled = self.is_pooled.to(tokens.device, non_blocking=True)
        return torch.where(is_pooled.reshape(-1, *[1] * (tokens.ndim - 1)), rows.to(tokens.dtype), tokens)

    def pooling(self, patches: Int[Tensor, "B V W"], shares: Float[Tensor, "B V W"]) -> Pool:
        """Takes values of rows to tokens that are made of these patches, by these shares."""
        is_pooled, row = (t.to(patches.device, non_blocking=True) for t in (self.is_pooled[:, None, None], self.row))
        itself = torch.arange(patches.shape[1], device=patches.device)[:, None]
        place = torch.where(is_pooled, row[patches.clamp(min=0)], itself)
        shares = torch.where(is_pooled, shares, torch.eye(1, shares.shape[2], device=shares.device))

        def pool(values: Float[Tensor, "B P C"]) -> Float[Tensor, "B V C"]:
            pairs = zip(place.unbind(dim=2), shares.to(values.dtype).unbind(dim=2), strict=True)
            parts = (values.gather(1, _across(at, values)) * share[:, :, None] for at, share in pairs)
            return functools.reduce(torch.add, parts)

        return pool


def patch_rows(units: Units, places: Mapping[tuple[int, ...], Origin], sources: Sources) -> PatchRows | None:
    """The rows of units whose blocks come from `places`; None where none is pooled."""
    runs = [
        [_run(places[(row, *block.key)], sources) for block in blocks]
        for row, blocks in zip(units.source_row, units.layout.blocks, strict=True)
    ]
    is_pooled = [None not in mine and bool(mine) for mine in runs]
    if not any(is_pooled):
        return None
    blocks = [
        [_as_patches(b, run) for b, run in zip(each, mine, strict=True)] if pooled else list(each)
        for each, mine, pooled in zip(units.layout.blocks, runs, is_pooled, strict=True)
    ]
    counts = [sum(b.num_tokens for b in each) for each in blocks]
    patch, given = (torch.zeros(len(runs), max(counts), dtype=torch.long) for _ in range(2))
    row = torch.zeros(sum(e.patch_starts[-1] for e in sources.encodings), dtype=torch.long)
    for u in (u for u, pooled in enumerate(is_pooled) if pooled):
        for out, which in ((patch, 0), (given, 1)):
            out[u, : counts[u]] = torch.cat([torch.arange(run[which], run[which] + run[2]) for run in runs[u] if run])
        row[patch[u, : counts[u]]] = torch.arange(counts[u])
    return PatchRows(torch.tensor(is_pooled), patch, given, row, Layout.build([range(n) for n in counts], blocks))


def _run(origin: Origin, sources: Sources) -> tuple[int, int, int] | None:
    """First patch, first row that the connector was given, and how many, of a block; None where it is not pooled.

    A clip whose tokens are mixtures of the rows that the connector is given is pooled behind it, frame by frame.
    """
    picture = sources.pictures[origin.part]
    footprint = picture.footprint
    if picture.modality == "image" or footprint.rows is not None or footprint.shares is None:
        return None
    size = footprint.num_patches // footprint.num_items
    first = footprint.items[origin.block] * size
    return sources.start(picture, "patch_starts") + first, sources.start(picture, "input_starts") + first, size


def _as_patches(block: Block, run: tuple[int, int, int] | None) -> Block:
    """A block of tokens as the square of patches that the encoder takes."""
    assert run is not None
    side = math.isqrt(run[2])
    return replace(block, rows=side, columns=side)


def _across(index: Int[Tensor, "B V"], like: Float[Tensor, "B P C"]) -> Int[Tensor, "B V C"]:
    return index[:, :, None].expand(-1, -1, like.shape[2])
