"""PyramidDrop: in front of several layers drop what the last token of the prompt attends to least in the next layer.

Paper    Xing et al., CVPR 2025, arXiv:2410.17247
Acts     prefill, in front of decoder layers 8, 16 and 24 of 32
Needs    one query row of attention of each of these layers, before it runs; the softmax is over all keys
Differs  the authors take one picture of a prompt, here all its visual tokens compete (scope `prompt`). Heads that share
         keys are served too. Ratios are of the tokens in front of the first cut, as the authors' are, and rounded as
         they do, but one token stays where they would keep none; a keep is what the last cut leaves, 1/8 being the
         paper's, and scales the other ratios. Layers of a model of another depth are fitted as everywhere. Positions
         are re-indexed at every cut, as the authors do, unless the user says otherwise. Their training recipe, which
         asks the token in front of each answer, is left out
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..core.cards import Card
from ..core.model_info import PaperLayer
from ..core.progressive import AskedAhead
from ..core.registry import register


@register
@dataclass(frozen=True)
class PyramidDrop(AskedAhead):
    layers: tuple[int, ...] = tuple(PaperLayer(n, depth=32) for n in (8, 16, 24))  # layer_list

    paper_ratios: ClassVar[tuple[float, ...]] = (0.5, 0.25, 0.125)
    card = Card(
        title="PyramidDrop",
        paper="2410.17247",
        year=2024,
        stages=("prefill",),
        needs=("projection", "decoder_rows"),
        count="adaptive",
        count_reason="without a keep the paper's ratios; with one the last cut leaves exactly that",
        exact_with_keep=True,
        rounding="floor",
        rounding_source="int(n * ratio) in the authors' code",
        prompt_dependent=True,
        newlines="compete",
        scope="prompt",
        unit="prompt",
    )
