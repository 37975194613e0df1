"""AgilePruner: go by the class token's attention, and suppress look-alikes the harder the more there is to see.

Paper    Baek et al., ICLR 2026, arXiv:2603.01236
Acts     connector, once, on the tokens as the language model will read them
Needs    the class token's attention row in the layer whose output the connector reads, and the projected tokens
Differs  an image of several crops has an effective rank of its own in each, and its count is divided over them; the
         authors' code takes one crop. On encoders that pack pictures of any size the attention received in the last
         layer that sees whole pictures stands in for the class token, as in ports to Qwen2.5-VL; elsewhere that needs
         `cls_fallback="received"`. The effective rank is taken in float64 of the smaller Gram matrix, where the authors
         take N x N eigenvalues in float32, about 1 % off where there are more tokens than channels. `erank_avg` is that
         of LLaVA-1.5 and its 576 tokens: other projectors and grids need their own, and so does
         `erank="participation"`. The paper's second use, an attention share that falls with the effective rank, is left
         out: its constants are not published
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import Counts, on_device
from ..core.cards import Card
from ..core.contracts import ScoredSelector
from ..core.errors import MethodError, UnsupportedError
from ..core.model_info import ModelInfo
from ..core.registry import register
from ..core.view import Captures, View
from ..ops.selection import top_indices
from ..ops.spectra import RANK_METHODS, effective_rank


@register
@dataclass(frozen=True)
class AgilePruner(ScoredSelector):
    erank_avg: float = 90.0  # mean effective rank of the pictures that LLaVA was trained on; a port takes 95
    tau_max: float = 0.25  # largest threshold
    slope: float = 0.01  # threshold per rank, on a picture of average effective rank
    static_tau: float | None = None  # ablation: one threshold for every token
    erank: str = "gram"  # or "svd", slower, or "participation", cheap and on another scale
    cls_fallback: str | None = None  # "received": mean attention received where there is no class token

    card = Card(
        title="AgilePruner",
        paper="2603.01236",
        year=2026,
        stages=("connector",),
        needs=("class_token",),
        cost="heavy",
        nearest="divprune",
    )

    def __post_init__(self) -> None:
        if not self.erank_avg > 0:
            raise MethodError(f"agilepruner: erank_avg is an effective rank > 0; got {self.erank_avg}.")
        for name in ("tau_max", "slope", "static_tau"):
            if not (getattr(self, name) or 0) >= 0:
                raise MethodError(f"agilepruner: {name} must be >= 0; got {getattr(self, name)}.")
        if self.erank not in RANK_METHODS:
            raise MethodError(f"agilepruner: erank must be one of {', '.join(RANK_METHODS)}; got {self.erank!r}.")
        if self.cls_fallback not in (None, "received"):
            raise MethodError(f"agilepruner: cls_fallback must be None or 'received'; got {self.cls_fallback!r}.")

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return ("attention_received",) if self.falls_back(info) else self.card.needs

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=(self.score_layer(info),))

    def remarks(self, info: ModelInfo) -> tuple[str, ...]:
        return ("attention received stands in for the class token",) if self.falls_back(info) else ()

    def falls_back(self, info: ModelInfo) -> bool:
        """Whether attention received takes the place of the class token's row."""
        return not info.has_class_token and (info.packs_pictures or self.cls_fallback == "received")

    def score_layer(self, info: ModelInfo) -> int:
        """The feature layer; where some layers attend within windows, the last that does not."""
        return info.global_layers[-1] if self.falls_back(info) and info.global_layers else info.feature_layer

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """Mean over heads of the class token's attention to each patch."""
        layer = self.score_layer(view.info)
        if self.falls_back(view.info):
            return view.attention_received(layer)
        if not view.info.has_class_token:
            raise UnsupportedError(
                f"agilepruner needs a class token; the encoder of this {view.info.family} model has none. "
                "Nearest: divprune."
            )
        return view.class_attention(layer).float().mean(dim=1)

    def choose(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """What the walk takes, highest score first, then the best of what it suppressed or did not reach."""
        with view.clock("select"):
            return top_indices(scores, counts.num_keep, view.mask, first=self.walk(scores, view, counts))

    def walk(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Bool[Tensor, "B V"]:
        """Tokens taken in order of score, each suppressing the tokens nearer to it than its threshold."""
        tokens = view.tokens.embeddings.float()
        unit = tokens / (tokens.norm(dim=2, keepdim=True) + 1e-8)  # the authors' guard
        rank = ranks(scores, view.mask)
        tau = self.thresholds(rank, view)
        items = torch.arange(len(scores), device=scores.device)
        num_keep = on_device(counts.num_keep, scores.device)
        last = rank.shape[1] + 1  # behind every rank
        alive, taken = view.mask, torch.zeros_like(view.mask)
        for step in range(counts.most):
            best, pick = rank.masked_fill(~alive, last).min(dim=1)
            found = (best < last) & (step < num_keep)
            taken = taken.scatter(1, pick[:, None], taken.gather(1, pick[:, None]) | found[:, None])
            alive = alive & (distance(unit, unit[items, pick]) >= tau[items, pick][:, None]) & (rank > best[:, None])
        return taken

    def thresholds(self, rank: Int[Tensor, "B V"], view: View) -> Float[Tensor, "B V"]:
        """tau: the distance within which each token suppresses others if the walk takes it."""
        if self.static_tau is not None:
            return torch.full(rank.shape, self.static_tau, device=rank.device)
        complexity = self.complexity(view) / self.erank_avg
        return (rank * self.slope * complexity[:, None]).clamp(max=self.tau_max).float()

    def complexity(self, view: View) -> Float[Tensor, " B"]:
        """Effective rank of each item's projected tokens."""
        return effective_rank(view.tokens.embeddings, view.mask, self.erank)


def ranks(scores: Float[Tensor, "B V"], mask: Bool[Tensor, "B V"]) -> Int[Tensor, "B V"]:
    """Place of each token by descending score, from 1; the earlier token first among equals, padding behind.

    >>> ranks(torch.tensor([[0.2, 0.5, 0.2]]), torch.ones(1, 3, dtype=torch.bool))
    tensor([[2, 1, 3]])
    """
    order = top_indices(scores, (scores.shape[1],) * len(scores), mask)
    places = torch.arange(1, scores.shape[1] + 1, device=order.device)
    return torch.empty_like(order).scatter(1, order, places.expand_as(order))


def distance(unit: Float[Tensor, "B V C"], to: Float[Tensor, "B C"]) -> Float[Tensor, "B V"]:
    """1 - cosine between vectors of length one, never below 0, so that a threshold of 0 suppresses nothing."""
    return (1 - (unit @ to[:, :, None])[:, :, 0]).clamp(min=0)
