"""YOPO: deep layers do no visual computation at all, so no visual token goes beyond a layer in the middle.

Paper    Zhang et al., October 2024, "Treat Visual Tokens as Text? But Your MLLM Only Needs Fewer Efforts to See",
         arXiv:2410.06169
Acts     prefill, once, in front of decoder layer 20 of 40, the paper's cut layer for LLaVA-1.5-13B
Needs    nothing
Differs  the paper prunes four things; here is the last alone. Not here: visual tokens that attend to their neighbours
         only, heads that skip the visual tokens, and the slice of the feed-forward for them. The authors' code masks
         visual keys and keeps the tokens; here they are removed, which is the same for text where the mask is in front
         of the softmax (their Qwen2-VL). Their LLaVA checkpoints, trained with weights set to zero behind the softmax,
         are not served. Text keeps its positions. Newline tokens are visual
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import Method
from ..core.errors import MethodError
from ..core.model_info import PaperLayer
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import View


@register
@dataclass(frozen=True)
class YOPO(Method):
    at_layer: int = PaperLayer(20, depth=40)  # the paper's L_c; the authors' script for Qwen2-VL uses 24 of 28

    card = Card(
        title="YOPO",
        paper="2410.06169",
        year=2024,
        stages=("prefill",),
        min_keep=0,
        takes_keep=False,
        positions="original",
        newlines="compete",
        scope="prompt",
        unit="prompt",
    )

    def __post_init__(self) -> None:
        if self.at_layer < 1:
            raise MethodError(
                f"yopo: at_layer must be >= 1; got {self.at_layer}. Without visual tokens in any layer: blind."
            )

    def reduce(self, view: View, counts: Counts) -> Reduction:
        """No token stays."""
        return Reduction(keep=torch.zeros_like(view.mask), num_kept=(0,) * len(view.mask))
