"""FEATHER: rank by attention without rotary embedding, keep a grid beside the best, and prune a second time later.

Paper    Endo et al., ICCV 2025, arXiv:2412.13180
Acts     prefill, twice: in front of decoder layers `at_layer` (the paper's K = 8) and `second_layer` (16)
Needs    the last token's query and the visual keys of the layer before each cut, without rotary embedding; the grid
Differs  the authors take one square picture; here every picture or crop is ranked alone and has a grid of its own true
         rows and columns, newline tokens excluded. The authors fix the share `rho` of the first cut, and the second
         keeps int(n rho^2) of the n tokens left: that is the field `rho`, and what happens without a keep (0.3). A keep
         of k sets rho = (k / N)^(1/3), the first cut keeps int(N rho) tokens and the grid, the second exactly k. Unless
         `stride` is given, a grid of stride 3 with more than half of int(N rho) tokens is widened until it has at most
         that, or left out. A cap on attention scores (Gemma 2) is not applied. Under scope `layer-mean` the grid is
         expected to overlap the best tokens as by chance
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import Budget, Counts
from ..core.cards import Card
from ..core.contracts import Method, Step, keep_highest, mask_of
from ..core.errors import BudgetError, MethodError
from ..core.layout import CLASS, NEWLINE, Layout
from ..core.model_info import ModelInfo, PaperLayer
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.attention import attention_rows
from ..ops.selection import top_indices

PAPER_RHO, PAPER_STRIDE = 0.3, 3


@register
@dataclass(frozen=True)
class Feather(Method):
    at_layer: int = PaperLayer(8, depth=32)  # the paper's K of the first cut
    second_layer: int = PaperLayer(16, depth=32)  # and of the second
    rho: float | None = None  # share kept by the first cut, 1 - the paper's drop ratio; None: from the keep, or 0.3
    stride: int | None = None  # of the grid; None: 3, wider where too little is kept

    card = Card(
        title="FEATHER",
        paper="2412.13180",
        year=2024,
        stages=("prefill",),
        needs=("projection", "grid"),
        count="adaptive",
        count_reason="of `rho` the second cut keeps a share of what the first leaves; with a keep the count is exact",
        exact_with_keep=True,
        prompt_dependent=True,
        positions="original",
    )

    def __post_init__(self) -> None:
        if not 1 <= self.at_layer < self.second_layer:
            raise MethodError(
                "feather cuts in front of at_layer and second_layer, by the layer before each: 1 <= at_layer < "
                f"second_layer; got {self.at_layer} and {self.second_layer}."
            )
        if self.rho is not None and not 0 < self.rho <= 1:
            raise MethodError(f"feather: rho is a share in (0, 1]; got {self.rho}.")
        if self.stride is not None and self.stride < 1:
            raise MethodError(f"feather: stride must be >= 1; got {self.stride}.")

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(decoder_inputs=(self.at_layer - 1, self.second_layer - 1))

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """Two cuts. Raises BudgetError where both a keep and `rho` are given."""
        if budget is not None and self.rho is not None:
            raise BudgetError(f"feather: rho={self.rho} fixes what is kept, so it takes no keep; got {budget}.")
        first, second = (Captures(decoder_inputs=(n - 1,)) for n in (self.at_layer, self.second_layer))
        return (
            Step(self, "prefill", self.at_layer, budget, self.reduce, first, count="adaptive", expect=self.expect),
            Step(self, "prefill", self.second_layer, budget, self.reduce_again, second, of_first=True),
        )

    def reduce(self, view: View, counts: Counts) -> Reduction:
        """The first cut: the best tokens and the grid. How many they are together is known to the device only."""
        with view.clock("score"):
            scores = self.score(view, self.at_layer - 1)
        with view.clock("select"):
            num_top = self.num_top(counts)
            top = mask_of(top_indices(scores, num_top, view.mask), scores.shape[1])
            return Reduction(top | self.grid(view.layout, num_top).to(view.device))

    def reduce_again(self, view: View, counts: Counts) -> Reduction:
        """The second cut: the best of all tokens that are left, the grid no longer protected."""
        with view.clock("score"):
            scores = self.score(view, self.second_layer - 1)
        with view.clock("select"):
            if not counts.asked:  # authors' rounding, in floats
                num_keep = tuple(int(n * self._rho**2) for n in counts.num_tokens)
                counts = Counts(num_keep, counts.num_tokens, asked=False)
            return Reduction(keep_highest(scores, counts, mask=view.mask), counts.num_keep)

    def score(self, view: View, layer: int) -> Float[Tensor, "B V"]:
        """Mean over heads of the last token's attention to the visual tokens alone, without rotary embedding."""
        query, key = view.project(layer, rotate=False)
        query, key = _at(query, view.places("last")), _at(key, view.places("visual"))
        scale = view.attention_scale(layer) or query.shape[3] ** -0.5
        rows = attention_rows(query, key, scale, view.mask[:, None, None, :])
        return rows[:, :, 0].mean(dim=1)

    def num_top(self, counts: Counts) -> list[int]:
        """int(N rho): the best tokens of the first cut."""
        if not counts.asked:
            return [int(n * self._rho) for n in counts.num_tokens]  # authors' rounding, in floats
        return [cube_root(k * n * n) for k, n in zip(counts.num_keep, counts.num_tokens, strict=True)]

    def grid(self, layout: Layout, num_top: Sequence[int]) -> Bool[Tensor, "B V"]:
        """Mask of the grid tokens, on the host."""
        if self.stride is not None:
            return lattice(layout, self.stride)
        grid, room = lattice(layout, PAPER_STRIDE), torch.tensor(num_top)[:, None]
        extent = max(max(b.rows, b.columns) for blocks in layout.blocks for b in blocks)
        for stride in range(PAPER_STRIDE + 1, extent + 1):
            crowded = 2 * grid.sum(dim=1, keepdim=True) > room
            if not crowded.any():
                return grid
            grid = torch.where(crowded, lattice(layout, stride), grid)
        return grid & (2 * grid.sum(dim=1, keepdim=True) <= room)

    def expect(self, counts: Counts, layout: Layout) -> float:
        """Tokens that the first cut leaves if the best tokens lie on the grid as often as off it."""
        num_top = self.num_top(counts)
        on_grid = self.grid(layout, num_top).sum(dim=1).tolist()
        return sum(t + g * (1 - t / n) for t, g, n in zip(num_top, on_grid, counts.num_tokens, strict=True))

    @property
    def _rho(self) -> float:
        return PAPER_RHO if self.rho is None else self.rho


def lattice(layout: Layout, stride: int) -> Bool[Tensor, "B V"]:
    """Tokens whose row and column are multiples of `stride` in their own grid; newline and class tokens never are.

    >>> lattice(Layout.single(1, 3, 4), 2).reshape(3, 4).int()
    tensor([[1, 0, 1, 0],
            [0, 0, 0, 0],
            [1, 0, 1, 0]], dtype=torch.int32)
    """
    real = layout.mask & (layout.role != NEWLINE) & (layout.role != CLASS)
    return real & (layout.row % stride == 0) & (layout.column % stride == 0)


def cube_root(value: int) -> int:
    """The largest int whose cube is at most `value`; a float would make 8 of 729 = 9^3.

    >>> cube_root(729), cube_root(728), cube_root(0)
    (9, 8, 0)
    """
    root = round(value ** (1 / 3))
    return next(r for r in (root + 1, root, root - 1) if r**3 <= value)


def _at(vectors: Float[Tensor, "B H S D"], place: Int[Tensor, "B N"]) -> Float[Tensor, "B H N D"]:
    """Vectors at places; padding reads place 0."""
    index = place.clamp(min=0)[:, None, :, None].expand(-1, vectors.shape[1], -1, vectors.shape[3])
    return vectors.gather(2, index)
