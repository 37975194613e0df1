"""Pictures as rows of flattened patches, in the order of the Qwen-VL processors, and back.

A row holds a patch of several frames, channels first; rows stand frame group by frame group, then merge group by merge
group in raster order, each group's patches together.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class PatchOrder:
    """Sizes of one family: `patch` pixels a side, `merge` patches a side of a token, `together` frames a patch."""

    patch: int
    merge: int
    together: int

    @property
    def token(self) -> int:
        """Pixels along a side of a visual token."""
        return self.patch * self.merge

    def rows_of(self, picture: Float[Tensor, "c h w"]) -> Float[Tensor, "N F"]:
        """A still picture, whose sides are multiples of a token's, as rows: each patch holds it `together` times."""
        rows, columns = picture.shape[1] // self.token, picture.shape[2] // self.token
        split = picture.reshape(-1, rows, self.merge, self.patch, columns, self.merge, self.patch)
        ordered = split.permute(1, 4, 2, 5, 0, 3, 6)  # row, column, in row, in column, channel, y, x
        still = ordered.unsqueeze(5).expand(*ordered.shape[:5], self.together, *ordered.shape[5:])
        return still.reshape(rows * columns * self.merge**2, -1)

    def frames_of(self, rows: Float[Tensor, "N F"], grid: tuple[int, int, int]) -> list[Float[Tensor, "c h w"]]:
        """The first frame of each group of frames; `grid` counts groups, and tokens down and across."""
        shape = (*grid, self.merge, self.merge, -1, self.together, self.patch, self.patch)
        first = rows.reshape(shape)[:, :, :, :, :, :, 0]
        ordered = first.permute(0, 5, 1, 3, 6, 2, 4, 7)  # frame, channel, (row, in row, y), (column, in column, x)
        return list(ordered.reshape(grid[0], -1, grid[1] * self.token, grid[2] * self.token))
