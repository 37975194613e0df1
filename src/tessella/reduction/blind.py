"""Blind: no visual token reaches the language model, so what is scored needs no eyes.

Paper    none: a baseline
Acts     connector
Needs    nothing
Differs  nothing known
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import Method
from ..core.reduction import Reduction
from ..core.registry import register
from ..core.view import View


@register
@dataclass(frozen=True)
class Blind(Method):
    card = Card(title="Blind", stages=("connector",), baseline=True, min_keep=0, takes_keep=False)

    def reduce(self, view: View, counts: Counts) -> Reduction:
        """No token stays."""
        return Reduction(keep=torch.zeros_like(view.mask), num_kept=(0,) * len(view.mask))
