"""CATP: keep what covers each picture and fits its text, then prune the pictures in context, then the one in question.

Paper    Li et al., AAAI 2026, arXiv:2508.07871
Acts     connector, on each picture alone; then prefill, in front of decoder layer K + 1 on the pictures in context, and
         in front of layer K + 2 on the picture in question; K is 6 of 32
Needs    the text behind each picture, hidden states, and the last token's attention rows in layers K - 1 and K
Differs  there is no authors' code. R is 1 - keep, without a keep the paper's middle one, 0.778; an int is what stays
         of every picture. A picture's text stands behind it, up to the next picture; that in question is the last,
         and its text all that follows. The hidden states of layer K are its output. Positions are re-indexed in the
         first stage and kept in the second. Where nothing is left in context, the mean of the question's text takes its
         place, and where there is no such text, that of all text. Counts are rounded down, but one token of the picture
         in question stays. A budget over the layer mean is met for a prompt of one picture. Scores are in float32.
         Equal scores: the earlier token
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import Budget, Counts
from ..core.cards import Card
from ..core.contracts import Method, Selector, Step, keep_highest
from ..core.errors import BudgetError, MethodError, UnsupportedError
from ..core.layout import Layout
from ..core.model_info import ModelInfo, PaperLayer
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.greedy import cover_most
from ..ops.similarity import cosine_similarity

SCOPES = (None, "image", "layer-mean")
PAPER_KEEP = Fraction(222, 1000)  # R = 0.778
SIZES, LEFT = "sizes", "left"  # in the state: tokens of each picture at first; what each question's picture keeps


@register
@dataclass(frozen=True)
class CATP(Selector):
    score_layer: int = PaperLayer(6, depth=32)  # the paper's K; 10 for its model of 13B
    text_weight: float = 0.7  # lambda_1, of the likeness to the picture's own text
    question_weight: float = 0.6  # lambda_2, of the likeness to the question

    card = Card(
        title="CATP",
        paper="2508.07871",
        year=2025,
        stages=("connector", "prefill"),
        needs=("text", "decoder_rows"),
        count="adaptive",
        count_reason="pictures in context share what they keep; together, and of the picture in question, it is exact",
        rounding="floor",
        rounding_source="counts rounded down in the specification",
        cost="heavy",
        prompt_dependent=True,
        newlines="compete",
        unit="image",
        nearest="mmtok",
    )

    def __post_init__(self) -> None:
        if self.score_layer < 1:
            raise MethodError(
                f"catp compares layer score_layer with the one before it, so it must be >= 1; got {self.score_layer}."
            )
        for name in ("text_weight", "question_weight"):
            if not getattr(self, name) >= 0:
                raise MethodError(f"catp: {name} must be >= 0; got {getattr(self, name)}.")

    def fit(self, info: ModelInfo) -> Method:
        """This method with K fitted such that layer K + 2 is in the model. Raises UnsupportedError where it is not."""
        layer, depth = self.score_layer, info.num_layers
        if isinstance(layer, PaperLayer) and layer + 2 >= depth:
            layer = max(1, round(layer * depth / layer.depth))
        if layer + 2 >= depth:
            raise UnsupportedError(
                f"catp cuts in front of layers {layer + 1} and {layer + 2}, behind score_layer={layer}; this decoder "
                f"has {depth} layers: 0 to {depth - 1}."
            )
        return self if layer == self.score_layer else replace(self, score_layer=layer)

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """Each picture, the context, the question. Raises BudgetError for a keep that is not per image."""
        budget = Budget(PAPER_KEEP) if budget is None else budget
        if budget.scope not in SCOPES:
            raise BudgetError(f"catp takes a keep per image or per layer-mean; got {budget}.")
        layer, whole = int(self.score_layer), budget if budget.is_everything else None
        later = InContext(layer, self.question_weight, budget.keep)
        return (
            Step(self, "connector", 0, budget, self.reduce, Captures(), count="adaptive", expect=expect_first),
            *(
                Step(later, "prefill", layer + n, whole, cut, read, count="adaptive", expect=partial(later.expect, n))
                for n, cut, read in ((1, later.reduce, later.captures(info)), (2, later.reduce_question, Captures()))
            ),
        )

    def reduce(self, view: View, counts: Counts) -> Reduction:
        """The first stage, which removes half of what goes."""
        view.state[SIZES] = counts.num_tokens
        counts = replace(counts, num_keep=halfway(counts))
        return replace(super().reduce(view, counts), num_kept=counts.num_keep)

    def select(self, view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """Greedy coverage of the picture by likeness, and likeness to its text."""
        tokens = view.tokens.embeddings
        text = mean_of(*view.text_embeddings("question"))[:, None]
        likeness = (cosine_similarity(tokens, tokens) + 1) / 2
        likeness.diagonal(dim1=1, dim2=2).fill_(1)  # to the last bit, so that tokens that cover as much tie
        likeness = likeness.masked_fill(~view.mask[:, None, :], 0)
        besides = self.text_weight * (cosine_similarity(tokens, text)[:, :, 0] + 1) / 2
        return cover_most(likeness, counts.num_keep, view.mask, besides=besides)


@dataclass(frozen=True)
class InContext(Method):
    """The second stage: all pictures of a prompt together, in which every picture but the last is context."""

    layer: int
    weight: float
    keep: int | Fraction

    id: ClassVar[str] = "catp"
    card = Card(
        title="CATP, second stage",
        stages=("prefill",),
        needs=("decoder_rows",),
        count="adaptive",
        count_reason="context and question have counts of their own, of what was there at first",
        takes_keep=False,
        prompt_dependent=True,
        positions="original",
        newlines="compete",
        scope="prompt",
        unit="prompt",
    )

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(decoder=(self.layer - 1, self.layer))

    def reduce(self, view: View, counts: Counts) -> Reduction:
        """The pictures in context, all together; the one in question stays whole."""
        asked = asked_about(view.layout)
        with view.clock("score"):
            scores = self.context_scores(view, asked)
        planned = [self.planned(sizes) for sizes in self.sizes_of(view)]
        view.state[LEFT] = [question for _, question in planned]
        whole = asked.sum(dim=1).tolist()
        kept = tuple(w + min(c, n - w) for (c, _), w, n in zip(planned, whole, counts.num_tokens, strict=True))
        return best(scores, kept, view, protected=asked)

    def reduce_question(self, view: View, counts: Counts) -> Reduction:
        """The picture in question; what is left of the context stays."""
        asked = asked_about(view.layout)
        with view.clock("score"):
            scores = self.question_scores(view, asked)
        there = zip(view.state[LEFT], asked.sum(dim=1).tolist(), counts.num_tokens, strict=True)
        kept = tuple(n - whole + min(left, whole) for left, whole, n in there)
        return best(scores, kept, view, protected=view.layout.mask & ~asked)

    def context_scores(self, view: View, asked: Bool[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Attention gained from layer K - 1 to K, never below 0, and likeness to the mean of picture and question."""
        before, now = (
            view.attention_rows(n, queries="last", softmax="all")[:, :, 0].mean(dim=1)
            for n in (self.layer - 1, self.layer)
        )
        tokens, question = view.tokens.embeddings, asked.to(view.device, non_blocking=True)
        words, behind = question_of(view, question)
        mean = mean_of(torch.cat([tokens, words], dim=1), torch.cat([question, behind], dim=1))
        return (now - before).clamp(min=0) + self.weight * cosine_similarity(tokens, mean[:, None])[:, :, 0]

    def question_scores(self, view: View, asked: Bool[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        """Likeness to the mean of what is left of the context, or else to that of the question's text."""
        tokens, question = view.tokens.embeddings, asked.to(view.device, non_blocking=True)
        context = view.mask & ~question
        words, behind = question_of(view, question)
        behind = torch.where(behind.any(dim=1, keepdim=True), behind, view.places("text") >= 0)
        mean = torch.where(context.any(dim=1, keepdim=True), mean_of(tokens, context), mean_of(words, behind))
        return cosine_similarity(tokens, mean[:, None])[:, :, 0]

    def sizes_of(self, view: View) -> list[list[int]]:
        """Tokens of each prompt's pictures in front of the first stage, those of the picture in question last."""
        layout, sizes = view.layout, iter(view.state.get(SIZES, ()))
        out = []
        for image, last, blocks in zip(layout.image, last_image(layout).tolist(), layout.blocks, strict=True):
            names = sorted({b.image for b in blocks})
            now = [int((image == n).sum()) for n in names]  # where the first stage had nothing to do
            first = dict(zip(names, (next(sizes, n) for n in now), strict=True))
            question = first.pop(last[0])
            out.append([*first.values(), question])
        return out

    def planned(self, sizes: list[int]) -> tuple[int, int]:
        """Tokens that are left of all pictures in context, and of the one in question, the last of `sizes`."""
        *context, question = sizes
        if isinstance(self.keep, int):
            return sum(min(self.keep, n) for n in context), min(self.keep, question)
        return math.floor(self.keep * sum(context)), max(math.floor(self.keep * question), min(question, 1))

    def expect(self, number: int, counts: Counts, layout: Layout) -> float:
        """Tokens that the first cut in the model leaves, or the second, of prompts of one picture each."""
        planned = [self.planned([n])[1] for n in counts.num_tokens]
        return expect_first(Counts(tuple(planned), counts.num_tokens), layout) if number == 1 else float(sum(planned))


def halfway(counts: Counts) -> tuple[int, ...]:
    """floor(S (1 - R / 2)): what the first stage leaves of each picture, halfway between all and what is kept.

    >>> halfway(Counts((191, 1), (576, 2)))
    (383, 1)
    """
    return tuple((n + k) // 2 for k, n in zip(counts.num_keep, counts.num_tokens, strict=True))


def expect_first(counts: Counts, layout: Layout) -> float:
    """Tokens that the first stage leaves."""
    return float(sum(halfway(counts)))


def last_image(layout: Layout) -> Int[Tensor, "B 1"]:
    """The picture whose tokens stand last in each prompt, on the host."""
    return layout.image.gather(1, layout.slot.argmax(dim=1, keepdim=True))


def asked_about(layout: Layout) -> Bool[Tensor, "B V"]:
    """Tokens of the picture in question, on the host."""
    return layout.mask & (layout.image == last_image(layout))


def question_of(view: View, question: Bool[Tensor, "B V"]) -> tuple[Float[Tensor, "B T C"], Bool[Tensor, "B T"]]:
    """Hidden states of all text, and which of it stands behind the picture in question."""
    text, hidden = view.places("text"), view.hidden_states()
    words = hidden.gather(1, text.clamp(min=0)[:, :, None].expand(-1, -1, hidden.shape[2]))
    end = torch.where(question, view.places("visual"), -1).amax(dim=1, keepdim=True)
    return words, text > end


def mean_of(vectors: Float[Tensor, "B N C"], mask: Bool[Tensor, "B N"]) -> Float[Tensor, "B C"]:
    """Mean of the vectors where the mask is True, in float32; zero where it nowhere is."""
    total = vectors.float().masked_fill(~mask[:, :, None], 0).sum(dim=1)
    return total / mask.sum(dim=1, keepdim=True).clamp(min=1)


def best(scores: Float[Tensor, "B V"], kept: tuple[int, ...], view: View, protected: Bool[Tensor, "B V"]) -> Reduction:
    """The tokens of highest score; protected ones, named on the host, all stay."""
    stay = protected.to(view.device, non_blocking=True)
    with view.clock("select"):
        keep = keep_highest(scores, Counts(kept, view.layout.num_tokens), mask=view.mask, protected=stay)
    return Reduction(keep, kept)
