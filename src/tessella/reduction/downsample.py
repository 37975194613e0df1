"""Downsample: a smaller picture instead of fewer of its tokens, which also spares the encoder.

Paper    none: a baseline
Acts     input; the encoder then sees the smaller picture, with position embeddings interpolated to it
Needs    pixels, and an encoder that takes pictures of other sizes
Differs  pixels are resized as the processor has normalised them, which is the same as before up to rounding; values
         beyond black and white, by which bicubic resizing overshoots at edges, are not cut off. An encoder that never
         saw other sizes reads them badly: say in tables whether it was trained for them. The embedded model was. The
         prompt is then as short as one with a small picture, whatever the position policy, which is of cuts alone
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import Rewriter
from ..core.errors import BudgetError
from ..core.registry import register
from ..core.rewriting import Draft
from ..ops.grids import shape_of
from ..ops.pixels import resized_to


@register
@dataclass(frozen=True)
class Downsample(Rewriter):
    card = Card(
        title="Downsample",
        stages=("input",),
        baseline=True,
        needs=("pixels", "grid", "sizes"),
        count="at_most",
        count_reason="rows x columns of the smaller picture's grid, the largest that fits the count with nearly square "
        "cells",
        unit="image",
        nearest="pool",
    )

    def rewrite(self, draft: Draft, counts: Counts) -> Draft:
        """Every picture at the size that gives the grid of its count; those that keep all tokens as they are."""
        if 0 in counts.num_keep:
            raise BudgetError(
                f"downsample: of {sum(counts.num_tokens)} visual tokens {sum(counts.num_keep)} are kept, which leaves "
                f"picture {counts.num_keep.index(0)} without any; keep at least one a picture."
            )
        grids = draft.layout.split("image").layout.grids
        shapes = [shape_of(*g, k) for g, k in zip(grids, counts.num_keep, strict=True)]
        sizes = [None if s == g else draft.picture_size(*s) for g, s in zip(grids, shapes, strict=True)]
        return draft.replace([[p] for p in resized(draft.pictures, sizes)])


def resized(
    pictures: Sequence[Float[Tensor, "c _ _"]], sizes: Sequence[tuple[int, int] | None]
) -> list[Float[Tensor, "c _ _"]]:
    """Pictures at (height, width); those without a size as they are."""
    return [p if s is None else resized_to(p, *s) for p, s in zip(pictures, sizes, strict=True)]
