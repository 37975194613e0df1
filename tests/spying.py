"""A method that only looks: what the view of a whole prompt, newlines and thumbnails included, shows of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import tessella
from tessella.core.budget import Counts
from tessella.core.cards import Card
from tessella.core.contracts import Method
from tessella.core.model_info import ModelInfo
from tessella.core.reduction import Reduction
from tessella.core.view import Captures, View

NOTHING = Captures()


@dataclass(frozen=True)
class Spy(Method):
    """Shows a function the view, and keeps the first tokens."""

    look: Callable[[View], Any]
    layers: Captures = NOTHING
    at_layer: int = 0
    seen: list[Any] = field(default_factory=list)

    card = Card("Spy", stages=("connector", "prefill"))
    id = "spy"

    def captures(self, info: ModelInfo) -> Captures:
        return self.layers

    def reduce(self, view: View, counts: Counts) -> Reduction:
        self.seen.append(self.look(view))
        keep = torch.zeros_like(view.mask)
        for item, count in enumerate(counts.num_keep):
            keep[item, :count] = True
        return Reduction(keep, counts.num_keep)


def seen_by(
    look: Callable[[View], Any],
    model: Any,
    inputs: dict[str, Tensor],
    *,
    layers: Captures = NOTHING,
    scope: Any = "prompt",
    at_layer: int = 0,
) -> Any:
    """What `look` returns of the view in front of a decoder layer, one item a prompt unless another scope is given."""
    spy = Spy(look, layers, at_layer)
    with torch.no_grad(), tessella.reduce(model, spy, 0.5, scope, newlines="compete", thumbnails="compete"):
        model(**inputs)
    return spy.seen[0]
