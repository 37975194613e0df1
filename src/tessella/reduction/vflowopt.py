"""VFlowOpt: one map of attention and entropy cuts in front of the language model, with recycling, and twice inside it.

Paper    Yang et al., ICCV 2025, arXiv:2508.05211
Acts     connector; then prefill, in front of decoder layers 9 and 18 of 28 (in LLaVA-NeXT 10 and 20 of 32: name them)
Needs    attention among all patches in one encoder layer; the pixels where `alpha` is not 0
Differs  the released settings for a mean of 25% are the default; those for 50% and 10% are `RELEASED`, others are
         searched by calibration. A keep, ours, is that mean (scope `layer-mean`) or under another scope what the last
         cut leaves, and scales the counts of 25%; then the first cut leaves at least that, and the last one exactly. No
         patch above the threshold: all are asked. The layer is the one whose output the connector reads, as the
         authors'; of an encoder with windows its last global one. A class token neither asks nor is asked. Entropy is
         that of the colours, which the authors' code reads off normalised pixels; where no file of the model says how
         these were normalised, as is usual in its family. Newlines are protected, beside their importance of 1. A cell
         whose weights sum to 0 has its mean. Each picture of a prompt has a map of its own and is recycled; the
         authors share one map, and cut several pictures without recycling.
         Inside the model tokens keep their positions, as in the authors' code; at the connector they are re-indexed
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from operator import mul

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import Budget, Counts
from ..core.cards import Card
from ..core.contracts import Scorer, Step, keep_highest, mask_of
from ..core.errors import BudgetError, MethodError, UnsupportedError
from ..core.layout import NEWLINE, Layout
from ..core.model_info import ModelInfo, PaperLayer
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.cells import cells_of, highest_in_cells, merge_in_cells
from ..ops.merging import across
from ..ops.pixels import patch_entropy
from ..ops.selection import mask_indices

MAP = "importance"  # its name in the state
PAPER_RATIOS = (0.2651, 0.98334, 0.87733)  # for a mean over layers of 25%
RELEASED = {  # the authors' settings, by that mean
    0.5: {"ratios": (0.72332, 0.74875, 0.487), "threshold": 28.683, "side": 11.757},
    0.25: {"ratios": PAPER_RATIOS, "threshold": 34.76, "side": 15.581},
    0.1: {"ratios": (0.11662, 1.0, 0.6011), "threshold": 39.265, "side": 17.387},
}


@register
@dataclass(frozen=True)
class VFlowOpt(Scorer):
    ratios: tuple[float, ...] | None = None  # R1, R2, R3: kept at each cut of what it finds; None: those of 25%
    layers: tuple[int, ...] = tuple(PaperLayer(n, depth=28) for n in (9, 18))  # k2, k3
    threshold: float = 34.76  # t: patches that receive more than t times the mean are asked
    side: float = 15.581  # a: places along a side of a cell
    alpha: float = 0.0  # weight of the entropy
    rows: str = "mean"  # over the patches asked, as in the authors' code; "sum" as in the paper
    encoder_layer: int | None = field(default=None, metadata={"layer_of": "encoder"})  # None: see Differs

    card = Card(
        title="VFlowOpt",
        paper="2508.05211",
        year=2025,
        stages=("connector", "prefill"),
        needs=("attention_received",),
        count="adaptive",
        count_reason="one token of each cell that is hit is recycled; a keep is a mean over layers",
        cost="heavy",
        newlines="compete",
        scope="layer-mean",
        unit="image",
    )

    def __post_init__(self) -> None:
        if list(self.layers) != sorted(set(self.layers)) or min(self.layers, default=1) < 1:
            raise MethodError(f"vflowopt: layers must ascend, from 1 on; got {tuple(map(int, self.layers))}.")
        if len(self.shares) != len(self.layers) + 1 or not all(0 < r <= 1 for r in self.shares):
            raise MethodError(
                f"vflowopt: ratios are shares in (0, 1], one for the connector and one for each of {len(self.layers)} "
                f"layers; got {self.shares}."
            )
        for name, value, least in (("threshold", self.threshold, 0), ("side", self.side, 1)):
            if not least <= value < math.inf:
                raise MethodError(f"vflowopt: {name} must be >= {least} and finite; got {value}.")
        if not math.isfinite(self.alpha):
            raise MethodError(f"vflowopt: alpha must be a finite number; got {self.alpha}.")
        if self.rows not in ("mean", "sum"):
            raise MethodError(f"vflowopt: rows must be 'mean' or 'sum'; got {self.rows!r}.")

    @property
    def shares(self) -> tuple[float, ...]:
        """What each cut keeps of what it finds, where no keep is given."""
        return PAPER_RATIOS if self.ratios is None else self.ratios

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return (*self.card.needs, "pixels") if self.alpha else self.card.needs

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=(self._encoder_layer(info),))

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """A cut at the connector and one at each layer. Raises BudgetError for a keep beside ratios."""
        if budget is not None and self.ratios is not None:
            raise BudgetError(f"vflowopt: ratios={self.ratios} fix what is kept; leave out the keep of {budget}.")
        out = [Step(self, "connector", 0, budget, self.reduce, self.captures(info))]
        for layer in map(int, self.layers):
            out.append(
                Step(self, "prefill", layer, budget, self.reduce, Captures(), of_first=True, positions="original")
            )
        *earlier, last = enumerate(out)
        return (*(replace(s, expect=partial(self.expect, n)) for n, s in earlier), replace(last[1], count="exact"))

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """The map of the prompt's pictures: worked out at the connector, then remembered."""
        if view.at_layer == 0:
            view.state[MAP] = self.importance(view)
        return view.state[MAP]

    def importance(self, view: View) -> Float[Tensor, "B V"]:
        """Attention that each patch receives of the reference patches, and its entropy; 1 for newlines."""
        layer = self._encoder_layer(view.info)
        values = view.attention_from(layer, self.reference_patches, total=self.rows == "sum").float()
        if self.alpha:
            values = values + self.alpha * view.per_patch(entropy_shares)
        newline = newlines(view)
        return values if newline is None else values.masked_fill(newline, 1.0)

    def reference_patches(self, received: Float[Tensor, "I N"]) -> Int[Tensor, "I Q"]:
        """The patches K that receive more than `threshold` times the mean, ascending, padded with -1.

        They are fewer than N / threshold, since what they receive is no more than all do.
        """
        num_patches = received.shape[1]
        most = num_patches if self.threshold <= 1 else math.ceil(num_patches / self.threshold)
        return mask_indices(received > self.threshold * received.mean(dim=1, keepdim=True), most)

    def protect(self, view: View) -> Bool[Tensor, "B V"] | None:
        return newlines(view)

    def decide(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Reduction:
        """At the connector kept tokens and one for each cell of the others; later the highest."""
        number = self._number_of(view.at_layer)
        if number == 0:
            return self.recycle(scores, view, counts)
        left = self.left_after(number, counts)
        keep = keep_highest(scores, replace(counts, num_keep=left), mask=view.mask, protected=self.protect(view))
        return Reduction(keep, left)

    def recycle(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Reduction:
        """Tokens that are not low, and the highest low one of each cell, which stands for all of them.

        How many cells are hit is read back from the device, once.
        """
        low, tokens = self.low(scores, view, counts), view.tokens.embeddings
        cell, num_cells = cells_of(view.layout, self.side)
        cell = torch.where(low, cell.to(view.device, non_blocking=True), -1)
        heads = highest_in_cells(scores, cell, num_cells)
        is_head = mask_of(heads, low.shape[1])
        keep = (view.mask & ~low) | is_head
        num_kept = tuple(keep.sum(dim=1).tolist())
        merged = merge_in_cells(tokens, scores, cell, num_cells).to(tokens.dtype)
        new = torch.where(is_head[:, :, None], merged.gather(1, across(cell, tokens)), tokens)
        kept = mask_indices(keep, max(num_kept, default=0))
        itself = torch.arange(low.shape[1], device=low.device)
        source = torch.where(low, heads.gather(1, cell.clamp(min=0)), torch.where(view.mask, itself, -1))
        return Reduction(keep, num_kept, new.gather(1, across(kept, new)), source=source)

    def low(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Bool[Tensor, "B V"]:
        """The least important tokens: those over the count of the first cut, and as many as are to be recycled."""
        kept = []
        each = zip(counts.num_tokens, self.left_after(0, counts), counts.num_keep, strict=True)
        for there, left, last in each:
            num_low = there - left + self.num_recycled(there)
            if counts.asked:  # at least the last count is left
                num_low = min(num_low, there - last + 1 if last < there else 0)
            kept.append(max(there - num_low, 0))
        top = replace(counts, num_keep=tuple(kept))
        return view.mask & ~keep_highest(scores, top, mask=view.mask, protected=self.protect(view))

    def num_recycled(self, num_tokens: int) -> int:
        """How many tokens are to be recycled, of so many; it takes as many cells as are hit."""
        return int(num_tokens / self.side**2)

    def left_after(self, number: int, counts: Counts) -> tuple[int, ...]:
        """Tokens of each item behind cut `number`, 0 at the connector, if all cells are hit."""
        if not counts.asked:
            return tuple(max(n - round(n * (1 - self.shares[number])), min(n, 1)) for n in counts.num_tokens)
        shares = list(accumulate(self.shares, mul))
        wanted = (round(k * shares[number] / shares[-1]) for k in counts.num_keep)
        return tuple(min(w, n) for w, n in zip(wanted, counts.num_tokens, strict=True))

    def expect(self, number: int, counts: Counts, layout: Layout) -> float:
        """Tokens that cut `number` is expected to leave, which the counts of the last cut decide."""
        return float(sum(self.left_after(number, counts)))

    def _number_of(self, layer: int) -> int:
        layers = (0, *map(int, self.layers))
        if layer not in layers:
            raise UnsupportedError(f"vflowopt cuts in front of layers {layers}, not of layer {layer}.")
        return layers.index(layer)

    def _encoder_layer(self, info: ModelInfo) -> int:
        if self.encoder_layer is not None:
            return self.encoder_layer
        return info.global_layers[-1] if info.global_layers else info.feature_layer


def entropy_shares(colours: Float[Tensor, "I c h w"], rows: int, columns: int) -> Float[Tensor, "I N"]:
    """Softmax over the patches of each picture of their entropy in bits."""
    return patch_entropy(colours, rows, columns).flatten(1).softmax(dim=1)


def newlines(view: View) -> Bool[Tensor, "B V"] | None:
    """The newlines among the tokens; None where there are none."""
    if not view.layout.has(NEWLINE):
        return None
    return (view.layout.role == NEWLINE).to(view.device, non_blocking=True)
