"""AdaToken-3D: a schedule over layers fitted to a model, and PyramidDrop's ranking at each of its layers.

Paper    Zhang, Chen and Zhang, May 2025, arXiv:2505.12782
Acts     prefill, in front of decoder layers 8, 16 and 24 of 32, or wherever a schedule has them
Needs    one query row of attention of each of these layers, before it runs; the softmax is over all keys
Differs  the paper's visual tokens are patches with places in a room, here any visual tokens. The title's gates are a
         static schedule in the authors' code, and so here: `layers` and `ratios`, by default those of their demo.
         Their longer schedules, for 32 layers, are (4, 8, 12, 16, 18, 20) with (.75, .5, .4, .3, .25, .15), and (4, 8,
         12, 16, 18, 20, 22, 24, 26, 28) with (.9, .8, .75, .7, .6, .55, .5, .45, .4, .25); calibration fits one to a
         model, where the authors copy numbers by hand. All visual tokens of a prompt compete, heads may share keys, one
         token stays where int(n * ratio) is 0, and a keep is what the last cut leaves, as in PyramidDrop. Positions are
         re-indexed at every cut, as the authors do, unless the user says otherwise
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
class AdaToken3D(AskedAhead):
    layers: tuple[int, ...] = tuple(PaperLayer(n, depth=32) for n in (8, 16, 24))  # of the authors' demo

    paper_ratios: ClassVar[tuple[float, ...]] = (0.8, 0.5, 0.25)
    card = Card(
        title="AdaToken-3D",
        paper="2505.12782",
        year=2025,
        stages=("prefill",),
        needs=("projection", "decoder_rows"),
        count="adaptive",
        count_reason="without a keep the schedule's ratios; with one the last cut leaves exactly that",
        exact_with_keep=True,
        rounding="floor",
        rounding_source="int(n0 * ratio) in the authors' code",
        prompt_dependent=True,
        newlines="compete",
        scope="prompt",
        unit="prompt",
        nearest="pyramiddrop",
    )
