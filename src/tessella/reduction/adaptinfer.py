"""AdaptInfer: what text asks of the image, each text token weighed by the attention that text gives and receives.

Paper    Zhang et al., August 2025, arXiv:2508.06084
Acts     prefill, behind decoder layers 1, 10 and 20 of 32: cuts in front of 2, 11 and 21
Needs    in each of the layers just behind, the attention of the text behind the picture to it and to itself
Differs  sums of columns are taken as they are, which favours early text, and heads are weighed one by one: both are the
         authors'. Ratios are of the tokens in front of the first cut, by default 290, 72 and 18 of 576, to the nearest
         number and at most all but one (for Qwen2-VL the authors name shares of what is left: multiply them). A keep,
         ours, is what the last cut leaves, and scales the others. All visual tokens of a prompt compete, and the text
         is that behind the last of them; without any, the last token's row stands in, of equal weight in all heads.
         Only rows of text are worked out. Recycling, which the authors switch off, is left out. Calibration places
         the layers: three knots of a line through the cumulative attention from text to image
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core.budget import Counts
from ..core.cards import Card
from ..core.errors import MethodError
from ..core.model_info import PaperLayer
from ..core.progressive import Progressive
from ..core.registry import register
from ..core.view import Captures, View


@register
@dataclass(frozen=True)
class AdaptInfer(Progressive):
    layers: tuple[int, ...] = tuple(PaperLayer(n, depth=32) for n in (2, 11, 21))  # behind the paper's 1, 10 and 20
    smoothing: float = 1.0  # lambda; 1: none, 0: every text token weighs the same

    paper_ratios: ClassVar[tuple[float, ...]] = (290 / 576, 72 / 576, 18 / 576)
    card = Card(
        title="AdaptInfer",
        paper="2508.06084",
        year=2025,
        stages=("prefill",),
        needs=("decoder_rows",),
        count="adaptive",
        count_reason="without a keep the paper's numbers; with one the last cut leaves exactly that",
        exact_with_keep=True,
        prompt_dependent=True,
        newlines="compete",
        scope="prompt",
        unit="prompt",
        nearest="pyramiddrop",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.smoothing <= 1:
            raise MethodError(f"adaptinfer: smoothing lies in [0, 1]; got {self.smoothing}.")
        if self.ratios and self.ratios[-1] == 0:  # as the paper's list for 32 tokens
            object.__setattr__(self, "card", replace(type(self).card, min_keep=0))

    def captures_at(self, layer: int) -> Captures:
        return Captures(decoder=(layer - 1,))

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """Sum over heads and text tokens of the weight of each times its attention to a visual token."""
        layer, text = view.at_layer - 1, self.text_behind(view)
        rows = view.attention_rows(layer, "text")
        among = view.attention_rows(layer, "text", keys="text")
        text = text[:, : rows.shape[2]]  # places may be padded further
        guided = torch.einsum("bht,bhtv->bv", text_importance(among, text, self.smoothing), rows)
        alone = view.attention_rows(layer, "last")[:, :, 0].sum(dim=1)
        return torch.where(text.any(dim=1, keepdim=True), guided, alone)

    def text_behind(self, view: View) -> Bool[Tensor, "B T"]:
        """Text behind the last visual token that there was in front of the first cut; it may have gone since."""
        text = view.places("text")
        if "text_before" not in view.state:
            last = view.places("visual").amax(dim=1, keepdim=True)
            before = ((text >= 0) & (text < last)).sum(dim=1, keepdim=True)
            view.state["text_before"] = before.expand_as(view.mask)
        number = torch.arange(text.shape[1], device=text.device)
        return (text >= 0) & (number >= view.state["text_before"][:, :1])

    def left_after(self, number: int, counts: Counts) -> tuple[int, ...]:
        """Tokens of each item behind a cut, to the nearest; without a keep at most all but one."""
        ratios, there = self.paper_ratios if self.ratios is None else self.ratios, counts.originally
        if counts.asked:
            part = ratios[number] / ratios[-1]
            return tuple(min(round(k * part), n) for k, n in zip(counts.num_keep, there, strict=True))
        least = 1 if ratios[number] else 0
        now = zip(there, counts.num_tokens, strict=True)
        return tuple(max(min(round(n * ratios[number]), left - 1), least) for n, left in now)


def text_importance(
    attention: Float[Tensor, "B H T T"], text: Bool[Tensor, "B T"], smoothing: float = 1.0
) -> Float[Tensor, "B H T"]:
    """Weight of each of the `text` tokens: attention among them that it receives and gives, its own counted once.

    `smoothing` mixes the sums of the symmetric map W with those of its mean over heads and pairs.

    >>> attention = torch.tensor([[[[0.5, 0.0], [0.25, 0.125]]]])
    >>> text_importance(attention, torch.tensor([[True, True]]))
    tensor([[[0.7500, 0.3750]]])
    """
    inside = attention.masked_fill(~(text[:, None, :, None] & text[:, None, None, :]), 0)
    sums = inside.sum(dim=2) + inside.sum(dim=3) - inside.diagonal(dim1=2, dim2=3)
    num_text = text.sum(dim=1)[:, None, None]
    mean = sums.sum(dim=(1, 2), keepdim=True) / (sums.shape[1] * num_text.clamp(min=1))  # of a whole column of W
    return (smoothing * sums + (1 - smoothing) * mean) * text[:, None, :]
