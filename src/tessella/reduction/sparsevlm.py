"""SparseVLM: what text that is about the image attends to; the best of the rest is merged into a few tokens.

Paper    Zhang et al., ICML 2025, arXiv:2410.04417
Acts     prefill, behind decoder layers 2, 6 and 15 of 32: cuts in front of 3, 7 and 16
Needs    the input embeddings of the language model, for the text that judges; in each of the layers just behind, the
         attention of that text to the image
Differs  the lists of the authors' code, not the paper's rule by the rank of the attention map, which is left out. A
         list's numbers are of 576 tokens and to the nearest for others, of which at most all but one are kept unmerged.
         A keep, ours, is all that the last cut leaves, merged tokens too; earlier cuts are scaled, and of a count as
         many are merged as the code makes of what is then dropped, but at least one is not. No noise: among equals in
         density the better scored comes first. All visual tokens of a prompt compete, and the text is that behind the
         last of them: all of it judges where none stands out, as where there is one token only, and without any the
         last token does. Under positions that are kept (M-RoPE) a merged token has those of its best member. The
         variant SparseVLM+, which divides by the pull of positions and picks heads, is left out
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import keep_highest, mask_of
from ..core.errors import MethodError
from ..core.model_info import ModelInfo, PaperLayer
from ..core.progressive import Progressive
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import Captures, Point, View
from ..ops.clustering import density_peaks
from ..ops.merging import across, in_sequence, merge_by_mean, parents_of
from ..ops.selection import top_indices


@register
@dataclass(frozen=True)
class SparseVLM(Progressive):
    layers: tuple[int, ...] = tuple(PaperLayer(n, depth=32) for n in (3, 7, 16))  # behind the paper's 2, 6 and 15
    merging: bool = True  # recycle dropped tokens
    recycled: float = 0.3  # tau: of what is dropped, the share that is recycled
    cluster_size: int = 10  # theta: recycled tokens a merged one

    paper_ratios: ClassVar[tuple[float, ...]] = (300 / 576, 200 / 576, 110 / 576)  # the list for 192 tokens
    card = Card(
        title="SparseVLM",
        paper="2410.04417",
        year=2024,
        stages=("prefill",),
        needs=("decoder_rows",),
        count="adaptive",
        count_reason="without a keep the code's lists and merged tokens; with one the last cut leaves exactly that",
        exact_with_keep=True,
        cost="heavy",
        prompt_dependent=True,
        newlines="compete",
        scope="prompt",
        unit="prompt",
        nearest="pyramiddrop",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.recycled <= 1:
            raise MethodError(f"sparsevlm: recycled is a share in [0, 1]; got {self.recycled}.")
        if self.cluster_size < 1:
            raise MethodError(f"sparsevlm: cluster_size must be >= 1; got {self.cluster_size}.")

    def captures_at(self, layer: int) -> Captures:
        return Captures(decoder=(layer - 1,))

    def observes(self, info: ModelInfo) -> tuple[Point, ...]:
        return (Point(0),)

    def observe(
        self, view: View, point: Point, inputs: Float[Tensor, "B S C"], outputs: Float[Tensor, "B S C"]
    ) -> None:
        """Find the text that judges, once, by what goes into the first layer."""
        text, visual = view.places("text"), view.places("visual")
        behind = text > visual.amax(dim=1, keepdim=True)
        image, words = (inputs.gather(1, across(places, inputs)) for places in (visual, text))
        raters = find_raters(rater_scores(image, words, view.mask, behind), behind)
        view.state["raters"] = raters[:, None].expand(-1, view.mask.shape[1], -1)  # held by each token that they judge

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """Mean over heads, then over the text that judges, of the attention to each visual token."""
        rows = view.attention_rows(view.at_layer - 1, "text").mean(dim=1)
        raters = view.state["raters"][:, 0]
        raters = nn.functional.pad(raters, (0, rows.shape[1] - raters.shape[1]))  # places may be padded otherwise
        num_raters = raters.sum(dim=1, keepdim=True)
        judged = (raters[:, None].float() @ rows)[:, 0] / num_raters.clamp(min=1)
        alone = view.attention_rows(view.at_layer - 1, "last")[:, :, 0].mean(dim=1)
        return torch.where(num_raters > 0, judged, alone)

    def decide(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Reduction:
        """The best tokens in their order, and behind them the means of clusters of the best of the rest."""
        num_kept, num_merged = self.planned(self._number_of(view.at_layer), counts)
        kept = keep_highest(scores, Counts(num_kept, counts.num_tokens), mask=view.mask)
        if not self.merging:
            return Reduction(kept, num_kept)
        dropped = [n - k if m else 0 for n, k, m in zip(counts.num_tokens, num_kept, num_merged, strict=True)]
        recycled = nn.functional.pad(self.recycle(scores, view.mask & ~kept, dropped), (0, 1), value=-1)  # never empty
        points = view.tokens.embeddings.gather(1, across(recycled, view.tokens.embeddings))
        _, cluster = density_peaks(points, num_merged, recycled >= 0, num_merged)
        return with_merged(view, kept, num_kept, recycled, cluster, num_merged)

    def recycle(
        self, scores: Float[Tensor, "B V"], rest: Bool[Tensor, "B V"], num_dropped: Sequence[int]
    ) -> Int[Tensor, "B R"]:
        """Of the `rest` the tokens that are recycled, best first, padded with -1."""
        return top_indices(scores, [self.num_recycled(d) for d in num_dropped], rest)

    def planned(self, number: int, counts: Counts) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Tokens of each item that cut `number` keeps as they are, and how many it makes of the others."""
        if counts.asked:
            totals = self.left_after(number, counts)
            asked = zip(totals, counts.num_tokens, strict=True)
            kept = tuple(self.unmerged(total, there) for total, there in asked)
            return kept, tuple(total - k for total, k in zip(totals, kept, strict=True))
        there = zip(counts.originally, counts.num_tokens, strict=True)
        kept = tuple(self.listed(number, first, left) for first, left in there)
        return kept, tuple(self.num_merged(n - k) for n, k in zip(counts.num_tokens, kept, strict=True))

    def left_after(self, number: int, counts: Counts) -> tuple[int, ...]:
        """Tokens of each item behind a cut, merged ones too: the list's, or as many as lead to a keep."""
        if not counts.asked:
            return tuple(k + m for k, m in zip(*self.planned(number, counts), strict=True))
        totals = [self.totals(n) for n in counts.originally]
        asked = zip(counts.num_keep, totals, counts.num_tokens, strict=True)
        return tuple(min(round(k * t[number] / t[-1]), there) for k, t, there in asked)

    def totals(self, first: int) -> list[int]:
        """Tokens that the list leaves behind each cut, of `first` ones, merged ones too."""
        out, left = [], first
        for number in range(len(self.layers)):
            kept = self.listed(number, first, left)
            left = kept + self.num_merged(left - kept)
            out.append(left)
        return out

    def listed(self, number: int, first: int, left: int) -> int:
        """Tokens that the list keeps as they are, of `first` ones of which `left` are still there."""
        ratios = self.paper_ratios if self.ratios is None else self.ratios
        return max(1, min(round(first * ratios[number]), left - 1))

    def unmerged(self, total: int, there: int) -> int:
        """The most tokens that can be kept as they are, of `there`, so that with merged ones `total` are left."""
        fits = (k for k in range(total, 0, -1) if k + self.num_merged(there - k) <= total)
        return next(fits, 1)

    def num_recycled(self, dropped: int) -> int:
        """Tokens that are recycled of as many dropped ones; the authors' rounding, in floats."""
        return min(int(self.recycled * dropped) + 1, dropped)

    def num_merged(self, dropped: int) -> int:
        """Tokens that are made of them."""
        if not self.merging or not dropped:
            return 0
        recycled = self.num_recycled(dropped)
        return min(recycled // self.cluster_size + 1, recycled)


def rater_scores(
    image: Float[Tensor, "B V C"], text: Float[Tensor, "B T C"], mask: Bool[Tensor, "B V"], behind: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """How much each text token is about the image: the share that it has of a softmax over text, mean over the image.

    >>> image, text = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> rater_scores(image, text, torch.tensor([[True]]), torch.tensor([[True, True]]))
    tensor([[0.8808, 0.1192]])
    """
    logits = image.float() @ text.float().transpose(1, 2)
    shares = logits.masked_fill(~behind[:, None], torch.finfo(logits.dtype).min).softmax(dim=2)
    return shares.masked_fill(~mask[:, :, None], 0).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def find_raters(scores: Float[Tensor, "B T"], behind: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """Text behind the picture whose score is above the mean; all of it where none is.

    >>> find_raters(torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.5, 9.0]]), torch.tensor([[True] * 3, [True, True, False]]))
    tensor([[ True, False, False],
            [ True,  True, False]])
    """
    mean = scores.masked_fill(~behind, 0).sum(dim=1, keepdim=True) / behind.sum(dim=1, keepdim=True)
    above = behind & (scores > mean)
    return torch.where(above.any(dim=1, keepdim=True), above, behind)


def with_merged(
    view: View,
    kept: Bool[Tensor, "B V"],
    num_kept: Sequence[int],
    recycled: Int[Tensor, "B R"],
    cluster: Int[Tensor, "B R"],
    num_merged: Sequence[int],
) -> Reduction:
    """Kept tokens in the order of the sequence, then the mean of each cluster in the slot of its best member.

    `recycled` are tokens, best first, and `cluster` the number of the cluster of each; both padded with -1.
    """
    tokens, there, most = view.tokens.embeddings, kept.shape[1], max(num_merged)
    num_left = tuple(k + m for k, m in zip(num_kept, num_merged, strict=True))
    number = torch.arange(most, device=tokens.device)
    in_cluster = cluster[:, None, :] == number[:, None]
    best = recycled.gather(1, in_cluster.int().argmax(dim=2))  # the first that there is
    slots = torch.where(in_cluster.any(dim=2), best, -1)
    merged = merge_by_mean(tokens.gather(1, across(recycled, tokens)), cluster, most).to(tokens.dtype)
    first = top_indices(-view.places("visual").float(), num_kept, kept)
    order = in_sequence(first, slots, most=max(num_left))
    taken = in_sequence(first, torch.where(slots < 0, -1, there + number), most=max(num_left))
    everything = torch.cat([tokens, merged], dim=1)
    keep = mask_of(order, there)
    number_of = torch.full((len(kept), there + 1), -1, dtype=torch.long, device=tokens.device)  # a place for padding
    number_of = number_of.scatter(1, torch.where(recycled < 0, there, recycled), cluster)[:, :there]
    return Reduction(
        keep,
        num_left,
        everything.gather(1, across(taken, everything)),
        order=order,
        source=parents_of(keep, slots, number_of),
    )
