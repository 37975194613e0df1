"""FlashVLM: half of the tokens by saliency and relevance to the text, half as different from each other as can be.

Paper    Cai et al., December 2025, arXiv:2512.20561
Acts     connector, once; the prompt must be known
Needs    the class token's attention row in the layer whose output the connector reads, encoder features, projected
         tokens and embeddings of the text
Differs  on encoders that pack pictures of any size attention received stands in for the class token and projected
         tokens for features, as in the authors' code for Qwen2.5-VL; other encoders without class token need
         `cls_fallback="received"`. `norm_gate="raw"` weighs text tokens by their length, which the authors' code for
         LLaVA loses ("post"). `text_scope="all"` is the whole prompt, as that code; the authors' code for Qwen2.5-VL
         stops in front of the picture, and so at the system prompt. Every crop is scored by itself and an image's count
         divided over them, where the authors' code cannot run. Near duplicates are found in float64. Without text,
         saliency alone. At this temperature relevance is nearly all in a few tokens; saliency orders the others
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import Counts, on_device, round_count
from ..core.cards import Card
from ..core.contracts import ScoredSelector
from ..core.errors import MethodError, UnsupportedError
from ..core.model_info import ModelInfo
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.normalising import geometric_blend, min_max, softmax
from ..ops.quantiles import quantile
from ..ops.selection import top_indices
from ..ops.similarity import cosine_similarity, normalize

EPS = 1e-6  # in ranges, in the gate and below the logarithm
WORD_TEMPERATURE = 0.05  # of the softmax over text tokens
UNDAMPED, DAMPING = 0.005, 0.1  # share of tokens whose relevance is not multiplied by the damping

CHOICES = (("norm_gate", "raw", "post"), ("text_scope", "all", "question"), ("cls_fallback", None, "received"))


@register
@dataclass(frozen=True)
class FlashVLM(ScoredSelector):
    eta: float = 0.5  # weight of relevance against saliency, in [0, 1]
    important_ratio: float = 0.5  # share of the count that goes by score alone, in [0, 1]
    temperature: float = 0.01  # of the softmax over visual tokens; the authors' comment suggests 0.02 to 0.05
    gamma: float = 2.5  # power that sharpens relevance
    per_round: int = 8  # duplicates dropped a round, r
    norm_gate: str = "raw"  # text tokens weigh by their length; "post": by that of normalised ones, all but 1
    text_scope: str = "all"  # or "question"
    cls_fallback: str | None = None  # "received": mean attention received where there is no class token

    card = Card(
        title="FlashVLM",
        paper="2512.20561",
        year=2025,
        stages=("connector",),
        needs=("class_token", "features", "text"),
        cost="heavy",
        prompt_dependent=True,
        nearest="divprune",
    )

    def __post_init__(self) -> None:
        for name in ("eta", "important_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise MethodError(f"flashvlm: {name} is a share in [0, 1]; got {getattr(self, name)}.")
        for name in ("temperature", "gamma", "per_round"):
            if not getattr(self, name) > 0:
                raise MethodError(f"flashvlm: {name} must be > 0; got {getattr(self, name)}.")
        for name, one, other in CHOICES:
            if getattr(self, name) not in (one, other):
                raise MethodError(f"flashvlm: {name} must be {one!r} or {other!r}; got {getattr(self, name)!r}.")

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return ("attention_received", *self.card.needs[1:]) if self.falls_back(info) else self.card.needs

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=(info.feature_layer,))

    def remarks(self, info: ModelInfo) -> tuple[str, ...]:
        return ("attention received stands in for the class token",) if self.falls_back(info) else ()

    def falls_back(self, info: ModelInfo) -> bool:
        """Whether attention received takes the place of the class token's row."""
        return not info.has_class_token and (info.packs_pictures or self.cls_fallback == "received")

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """Saliency and relevance, blended in the log domain; in (0, 1]."""
        return geometric_blend(self.saliency(view), self.relevance(view), self.eta, floor=EPS)

    def saliency(self, view: View) -> Float[Tensor, "B V"]:
        """The class token's attention to each patch, mean over heads, brought to [0, 1]."""
        layer = view.info.feature_layer
        if self.falls_back(view.info):
            return min_max(view.attention_received(layer), view.mask, EPS)
        if not view.info.has_class_token:
            raise UnsupportedError(
                f"flashvlm needs a class token; the encoder of this {view.info.family} model has none. "
                "Nearest: divprune."
            )
        return min_max(view.class_attention(layer).float().mean(dim=1), view.mask, EPS)

    def relevance(self, view: View) -> Float[Tensor, "B V"]:
        """Similarity of each projected token to the text that it resembles most, sharpened; zeros without text."""
        text, real = view.text_embeddings("question" if self.text_scope == "question" else "all")
        if text.shape[1] == 0:
            return torch.zeros(view.mask.shape, device=view.device)
        weights = gate(text if self.norm_gate == "raw" else normalize(text), real)
        similarity = cosine_similarity(view.tokens.embeddings, text) * weights[:, None]  # [B, V, T]
        relevance = (similarity * softmax(similarity, real[:, None], WORD_TEMPERATURE)).sum(dim=2)
        return sharpen(relevance, view.mask, self.temperature, self.gamma)

    def choose(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """The highest scores, then of the others those that are left when near duplicates have been dropped."""
        share = Fraction(str(self.important_ratio))
        important = [round_count(share * k, "floor") for k in counts.num_keep]
        diverse = [k - i for k, i in zip(counts.num_keep, important, strict=True)]
        # where nothing diverse is wanted there is no list to thin
        sizes = [n - i if d else 0 for n, i, d in zip(counts.num_tokens, important, diverse, strict=True)]
        order = top_indices(scores, counts.num_tokens, view.mask)
        first = on_device(important, order.device)[:, None]
        rest = joined(order, first, first + on_device(sizes, order.device)[:, None], order[:, :0])
        features = view.tokens.embeddings if view.info.packs_pictures else view.features()
        # the order of similarities decides every later round: in float32 rounding alone keeps other tokens of one
        # picture in four (11 of 40 with 576 tokens)
        unit = torch.nn.functional.normalize(features.double(), dim=2)
        rest = thinned(rest, unit, rounds(sizes, diverse, self.per_round))
        return joined(order, torch.zeros_like(first), first, rest)[:, : counts.most]


def gate(text: Float[Tensor, "B T C"], real: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Length of each text token's embedding against the longest."""
    length = text.float().norm(dim=2) * real
    return length / (length.amax(dim=1, keepdim=True) + EPS)


def sharpen(
    relevance: Float[Tensor, "B V"], mask: Bool[Tensor, "B V"], temperature: float, gamma: float
) -> Float[Tensor, "B V"]:
    """Relevance in [0, 1], all but the share `UNDAMPED` of it pressed down."""
    relevance = min_max(softmax(relevance, mask, temperature) ** gamma, mask, EPS)
    damped = relevance < quantile(relevance, 1 - UNDAMPED, mask)[:, None]
    return min_max(torch.where(damped, relevance * DAMPING, relevance), mask, EPS)


def rounds(sizes: Sequence[int], targets: Sequence[int], per_round: int) -> list[list[tuple[int, int]]]:
    """(tokens there, tokens dropped) of each item in each round, until as many are left as its target.

    >>> rounds([12, 5, 3], [2, 1, 3], 4)
    [[(12, 4), (5, 3), (3, 0)], [(8, 4), (2, 1), (3, 0)], [(4, 2), (1, 0), (3, 0)]]
    """
    plan, left = [], list(sizes)
    while left != list(targets):
        # only even places are dropped
        plan.append([(n, min(per_round, n - t, (n + 1) // 2)) for n, t in zip(left, targets, strict=True)])
        left = [n - drop for n, drop in plan[-1]]
    return plan


def thinned(
    rest: Int[Tensor, "B R"], unit: Float[Tensor, "B V C"], plan: Sequence[Sequence[tuple[int, int]]]
) -> Int[Tensor, "B K"]:
    """What is left of lists of tokens, padded with -1, after the rounds of a plan have dropped near duplicates.

    A round compares the tokens at even places with those at odd ones, sorts them by the nearest of these, drops the
    first and puts the odd ones behind the others: by that order the next round divides them. O(V^2) memory.
    """
    cosines = unit @ unit.transpose(1, 2)
    numbers = on_device([n for step in plan for pair in step for n in pair], rest.device).view(len(plan), len(rest), 2)
    for step, number in zip(plan, numbers, strict=True):
        size, drop = number[:, :1], number[:, 1:]
        even, odd = rest[:, 0::2], rest[:, 1::2]
        even = even.gather(1, nearest(cosines, even, odd).sort(dim=1, descending=True, stable=True).indices)
        shorter = torch.where(drop > 0, joined(even, drop, (size + 1) // 2, odd), rest)
        rest = shorter[:, : max(n - d for n, d in step)]
    return rest


def nearest(cosines: Float[Tensor, "B V V"], of: Int[Tensor, "B E"], among: Int[Tensor, "B O"]) -> Float[Tensor, "B E"]:
    """Similarity of each token to the nearest of others; both lists are padded with -1, and padding is at -inf."""
    pair = of.clamp(min=0)[:, :, None] * cosines.shape[1] + among.clamp(min=0)[:, None]
    similarity = cosines.flatten(1).gather(1, pair.flatten(1)).view(pair.shape)
    similarity = similarity.masked_fill((among < 0)[:, None] | (of < 0)[:, :, None], -torch.inf)
    return similarity.amax(dim=2)


def joined(
    first: Int[Tensor, "B F"], begin: Int[Tensor, "B 1"], end: Int[Tensor, "B 1"], second: Int[Tensor, "B S"]
) -> Int[Tensor, "B N"]:
    """`first[begin:end]` of each item and then `second`, padded with -1 at the end as `second` is."""
    both = torch.cat([first, second, torch.full_like(end, -1)], dim=1)
    place, taken = torch.arange(both.shape[1] - 1, device=both.device), end - begin
    index = torch.where(place < taken, place + begin, first.shape[1] + place - taken)
    return both.gather(1, index.clamp(max=both.shape[1] - 1))
