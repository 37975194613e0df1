"""A method that looks at what the connector made and removes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from ..core.budget import Counts
from ..core.cards import Card
from ..core.contracts import Method
from ..core.reduction import Reduction
from ..core.view import View


@dataclass(frozen=True, eq=False)
class Onlooker(Method):
    """Calls `see(view)` at the connector, where the view's items are whole prompts, and removes nothing."""

    see: Callable[[View], None]

    id: ClassVar[str] = "onlooker"
    card = Card(
        title="Onlooker",
        stages=("connector",),
        count="adaptive",
        count_reason="it removes nothing",
        takes_keep=False,
        baseline=True,
        positions="original",
        newlines="compete",
        scope="prompt",
        unit="prompt",
    )

    def reduce(self, view: View, counts: Counts) -> Reduction:
        self.see(view)
        return Reduction(view.mask, view.layout.num_tokens)
