"""SliME: keep the tokens of tiles most like the prompt's text, as many as hold a given share of a softmax over them.

Paper    Zhang et al., June 2024, arXiv:2406.08487: the text-guided router, which takes no training
Acts     connector, once, on the tiles of a picture; its thumbnail, the global view, stays whole
Needs    the embeddings of the prompt's text and the projected tokens
Differs  the trained parts (query resampler of the tiles, mixture of adapters of the global view, separator embedding,
         learned router) are left out: the router reads the tokens that the model makes. A keep, ours, takes the k
         highest scores instead of a share. Where a picture has no thumbnail, the router reads its whole grid. No noise
         is added, as outside training. `top_p` of 1 or more keeps everything, where rounding may cost the authors' code
         a token. Equal scores, as those of a prompt without text: the earlier token
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import ScoredSelector
from ..core.errors import MethodError
from ..core.registry import register
from ..core.view import View
from ..ops.selection import top_indices
from ..ops.similarity import normalize


@register
@dataclass(frozen=True)
class SliME(ScoredSelector):
    top_p: float = 0.95  # share of the softmax that is kept where no keep is given; 1.0 when the authors pretrain
    temperature: float = 1.0  # temp, by which scores are divided in front of the softmax

    card = Card(
        title="SliME",
        paper="2406.08487",
        year=2024,
        stages=("connector",),
        needs=("text",),
        count="adaptive",
        count_reason="as many tokens as hold `top_p` of the softmax; with a keep the count is exact",
        exact_with_keep=True,
        prompt_dependent=True,
        unit="image",
        thumbnails="keep",
    )

    def __post_init__(self) -> None:
        for name, value in (("top_p", self.top_p), ("temperature", self.temperature)):
            if not value > 0:
                raise MethodError(f"slime: {name} must be > 0; got {value}.")

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """Sum over the prompt's text tokens of their cosines with each visual token.

        It is one product with the sum of the text's vectors of length one, so that no V x T matrix is made.
        """
        text, real = view.text_embeddings("all")
        direction = normalize(text).masked_fill(~real[:, :, None], 0.0).sum(dim=1)
        return (normalize(view.tokens.embeddings) @ direction[:, :, None])[:, :, 0]

    def choose(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """The highest scores, as many as are asked; or until their part of the softmax first exceeds `top_p`."""
        if counts.asked:
            return top_indices(scores, counts.num_keep, view.mask)
        order = top_indices(scores, counts.num_tokens, view.mask)
        if self.top_p >= 1:
            return order
        logits = (scores.float() / self.temperature).masked_fill(~view.mask, -torch.inf)
        mass = logits.softmax(dim=1).gather(1, order.clamp(min=0)).cumsum(dim=1)
        below = ((mass <= self.top_p) & (order >= 0)).sum(dim=1, keepdim=True)
        return torch.where(torch.arange(order.shape[1], device=order.device) <= below, order, -1)
