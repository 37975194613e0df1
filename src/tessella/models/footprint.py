"""What the vision encoder makes of pictures: grids of visual tokens, and the encoder's patches behind each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.layout import Block


@dataclass(frozen=True, eq=False)
class Footprint:
    """One encoded picture, tile or clip.

    - `blocks`: its grids of visual tokens, as image 0.
    - `patches [T, P]`: for each token, in the order of the prompt, the patches that it is made of, as places among the
      `num_patches` of the picture in the order in which the encoder holds them (class tokens not counted); -1 for none,
      as for newlines.
    - `shares [T, P]`: with which weight; None for equal ones.
    - `rows [T, 1]`: for each token its place among the `num_rows` of the connector's input, where that has one row a
      token; None where it has one a patch.
    - `items`: for each block the encoder's batch item that it comes from, of the picture's `num_items`.
    """

    blocks: tuple[Block, ...]
    patches: Int[Tensor, "T P"]
    num_patches: int
    shares: Float[Tensor, "T P"] | None = None
    rows: Int[Tensor, "T 1"] | None = None
    num_rows: int = 0
    items: tuple[int, ...] = (0,)
    num_items: int = 1

    @property
    def num_tokens(self) -> int:
        return len(self.patches)

    @property
    def num_inputs(self) -> int:
        """Rows of the connector's input."""
        return self.num_patches if self.rows is None else self.num_rows

    def by_token(self) -> Footprint:
        """The same where the connector's input has one row a token, in their order."""
        return replace(self, rows=torch.arange(self.num_tokens)[:, None], num_rows=self.num_tokens)

    def as_inputs(self) -> Footprint:
        """The same with places in the connector's input instead of patches."""
        return self if self.rows is None else replace(self, patches=self.rows, shares=None)

    def as_image(self, image: int, first_tile: int = 0, role: int | None = None) -> tuple[Block, ...]:
        """Its blocks as part of image number `image` of a prompt, tiles counted from `first_tile`."""
        if image == 0 and first_tile == 0 and role is None:
            return self.blocks
        return tuple(
            replace(b, image=image, tile=b.tile + first_tile, role=b.role if role is None else role)
            for b in self.blocks
        )


@lru_cache(maxsize=64)
def one_grid(rows: int, columns: int, merge: int = 1) -> Footprint:
    """A picture of one grid, each token the mean of `merge` x `merge` patches, which the encoder holds in raster order.

    >>> one_grid(1, 2, merge=2).patches
    tensor([[0, 1, 4, 5],
            [2, 3, 6, 7]])
    """
    height, width = rows * merge, columns * merge
    patches = torch.arange(height * width).view(rows, merge, columns, merge).transpose(1, 2).reshape(-1, merge**2)
    return Footprint((Block(0, rows, columns),), patches, height * width)


def join(
    footprints: Sequence[Footprint], starts: Sequence[int]
) -> tuple[Int[Tensor, "T P"], Float[Tensor, "T P"] | None]:
    """Patches and shares of several footprints one after the other, whose own patches begin at `starts`."""
    if not footprints:
        return torch.empty(0, 1, dtype=torch.long), None
    width = max(f.patches.shape[1] for f in footprints)
    moved = [torch.where(f.patches >= 0, f.patches + s, -1) for f, s in zip(footprints, starts, strict=True)]
    patches = torch.cat([_widen(m, width, -1) for m in moved])
    if bool((patches >= 0).all()) and all(f.shares is None for f in footprints):
        return patches, None
    return patches, torch.cat([_widen(shares_of(f), width, 0.0) for f in footprints])


def shares_of(footprint: Footprint) -> Float[Tensor, "T P"]:
    """The weight of each patch in its token; a token of no patch has none."""
    if footprint.shares is not None:
        return footprint.shares
    real = footprint.patches >= 0
    return real / real.sum(dim=1, keepdim=True).clamp(min=1)


def _widen(values: Tensor, width: int, fill: float) -> Tensor:
    return torch.nn.functional.pad(values, (0, width - values.shape[1]), value=fill)
