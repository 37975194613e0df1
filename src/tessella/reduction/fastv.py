"""FastV: drop the visual tokens to which the last prompt token pays least attention.

Paper    Chen et al., ECCV 2024, arXiv:2403.06764
Acts     prefill, once, in front of decoder layer `at_layer`
Needs    one query row of attention of the layer before it; the softmax is over all keys and is not renormalised
Differs  the authors' code assumes one span of visual tokens; here all visual tokens of a prompt compete, wherever they
         are (scope `prompt`). Tokens are removed, not masked, and the cache is used. Equal scores: the earlier token
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..core.cards import Card
from ..core.contracts import Scorer
from ..core.errors import MethodError
from ..core.model_info import ModelInfo, PaperLayer
from ..core.registry import register
from ..core.view import Captures, View


@register
@dataclass(frozen=True)
class FastV(Scorer):
    at_layer: int = PaperLayer(2, depth=32)  # the paper's K; the authors' script for lmms-eval uses 3

    card = Card(
        title="FastV",
        paper="2403.06764",
        year=2024,
        stages=("prefill",),
        needs=("decoder_rows",),
        rounding="ceil",
        rounding_source="k = N - floor(N R) in the authors' inference branch",
        prompt_dependent=True,
        positions="original",
        newlines="compete",
        scope="prompt",
        unit="prompt",
    )

    def __post_init__(self) -> None:
        if self.at_layer < 1:
            raise MethodError(
                f"fastv reads the attention of layer at_layer - 1, so at_layer must be >= 1; got {self.at_layer}. "
                "To cut in front of layer 0 take a method of stage 'connector'."
            )

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(decoder=(self.at_layer - 1,))

    def score(self, view: View) -> Float[Tensor, "B V"]:
        """Mean over heads of the attention from the last position to each visual token."""
        rows = view.attention_rows(layer=self.at_layer - 1, queries="last", softmax="all")  # [B, H, 1, V]
        return rows[:, :, 0].mean(dim=1)
