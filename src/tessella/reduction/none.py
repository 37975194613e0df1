"""None: the untouched model through the whole path, to measure what the engine itself costs.

Paper    none: a baseline
Acts     connector
Needs    nothing
Differs  nothing known
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import Method
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import View


@register
@dataclass(frozen=True)
class NONE(Method):
    card = Card(title="None", stages=("connector",), baseline=True, takes_keep=False)

    def reduce(self, view: View, counts: Counts) -> Reduction:
        """Every token stays; hooks fire and every slot is gathered as for any other method."""
        return Reduction(keep=view.mask.clone(), num_kept=view.layout.num_tokens)
