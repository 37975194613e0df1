"""A method that removes nothing and watches: what instruments and calibration read a model with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Final

from jaxtyping import Float
from torch import Tensor

from .budget import Budget, Counts
from .cards import Card
from .contracts import Method, Step
from .model_info import ModelInfo
from .reduction import Reduction
from .view import Captures, Point, View

CONNECTOR: Final = -1  # in front of every layer


@dataclass(frozen=True, eq=False)
class Watch(Method):
    """Calls `see(view, layer)` behind each of `layers` while a prompt is read; no token is removed.

    CONNECTOR among the layers stands for the connector, behind which are the tokens that layer 0 is given.

    The view's items are whole prompts. `view.attention_rows(layer)` and `view.hidden_states()`, the layer's output, can
    be asked; what else is to be read, `captures` names.
    """

    see: Callable[[View, int], None]
    layers: tuple[int, ...]
    more: Captures = field(default_factory=Captures)

    id: ClassVar[str] = "watch"
    card = Card(
        title="Watching",
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

    def captures(self, info: ModelInfo) -> Captures:
        return self.more | Captures(decoder=self._decoder_layers)

    def observes(self, info: ModelInfo) -> tuple[Point, ...]:
        return tuple(Point(layer) for layer in self._decoder_layers)

    def observe(
        self, view: View, point: Point, inputs: Float[Tensor, "B S C"], outputs: Float[Tensor, "B S C"]
    ) -> None:
        self.see(view, point.layer)

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """One at the connector, which keeps everything."""
        return (Step(self, "connector", 0, None, self.reduce, self.captures(info), self.observes(info)),)

    def reduce(self, view: View, counts: Counts) -> Reduction:
        if CONNECTOR in self.layers:
            self.see(view, CONNECTOR)
        return Reduction(view.mask, view.layout.num_tokens)

    @property
    def _decoder_layers(self) -> tuple[int, ...]:
        return tuple(layer for layer in self.layers if layer != CONNECTOR)
