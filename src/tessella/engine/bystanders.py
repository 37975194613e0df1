"""Visual tokens on which no method decides: newlines and thumbnails that a role policy keeps, drops or lets follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..core.cards import Fate
from ..core.layout import Layout


@dataclass(frozen=True)
class Bystanders:
    """The tokens of some roles among the visual tokens of a batch, and what becomes of them.

    - `kept [B, V]`: those that stay whatever is decided.
    - `following [B, V]`: newlines that stay where a token of their group stays. `line [B, V]` and `image [B, V]` number
      the lines and images of each row; a newline of no line follows its image.
    - `num_kept`: tokens of each row in `kept`.
    """

    kept: Bool[Tensor, "B V"]
    following: Bool[Tensor, "B V"]
    line: Int[Tensor, "B V"]
    image: Int[Tensor, "B V"]
    num_kept: tuple[int, ...]

    @classmethod
    def of(cls, layout: Layout, fates: Mapping[int, Fate], everything: bool) -> Bystanders | None:
        """Those of a layout; None if there are none. With `everything` all of them stay."""
        there = {role: fate for role, fate in fates.items() if fate != "compete" and layout.has(role)}
        if not there:
            return None
        kept, following = torch.zeros_like(layout.mask), torch.zeros_like(layout.mask)
        for role, fate in there.items():
            if everything or fate == "keep":
                kept = kept | (layout.role == role)
            elif fate == "follow":
                following = following | (layout.role == role)
        return cls(kept, following, layout.line, layout.image, tuple(kept.sum(dim=1).tolist()))

    def beside(self, keep: Bool[Tensor, "B V"]) -> tuple[Bool[Tensor, "B V"], list[int]]:
        """`keep` with the bystanders that stay beside what was decided, and how many these are in each row.

        Newlines that follow are counted on the device, which waits for it.
        """
        device = keep.device
        out = keep | self.kept.to(device, non_blocking=True)
        if not bool(self.following.any()):
            return out, list(self.num_kept)
        by_line, by_image = (_any_in(keep, groups) for groups in (self.line, self.image))
        lives = torch.where((self.line >= 0).to(device, non_blocking=True), by_line, by_image)
        follows = self.following.to(device, non_blocking=True) & lives
        more = follows.sum(dim=1).tolist()
        return out | follows, [n + m for n, m in zip(self.num_kept, more, strict=True)]


def _any_in(keep: Bool[Tensor, "B V"], group: Int[Tensor, "B V"]) -> Bool[Tensor, "B V"]:
    """For each token whether any of its group is kept; of no group (-1), no. Groups are on the host."""
    size = int(group.max()) + 1  # they are numbered through the prompt, of which earlier cuts may have left little
    group = group.to(keep.device, non_blocking=True)
    place = torch.where(group >= 0, group, size)
    counts = torch.zeros(len(keep), size + 1, dtype=torch.int32, device=keep.device)
    counts.scatter_add_(1, place, keep.to(torch.int32))
    return (counts.gather(1, place) > 0) & (group >= 0)
