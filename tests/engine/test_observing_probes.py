"""A layer that answers a method ahead of its turn has not run: whoever observes its modules hears of the run only."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

import tessella
from tessella.core.cards import Card
from tessella.core.contracts import Scorer
from tessella.core.model_info import ModelInfo
from tessella.core.view import Point, View
from tessella.testing.tiny import tiny_inputs, tiny_llava


@dataclass(frozen=True)
class Listener(Scorer):
    """Reads the attention of the layer that runs next, and hears what attention modules give."""

    at_layer: int = 2
    heard: list[tuple[int, Tensor]] = field(default_factory=list, hash=False)

    card = Card("Listener", stages=("prefill",))
    id = "listener"

    def observes(self, info: ModelInfo) -> tuple[Point, ...]:
        return tuple(Point(layer, "self_attn") for layer in (1, 2, 3))

    def observe(
        self, view: View, point: Point, inputs: Float[Tensor, "B S C"], outputs: Float[Tensor, "B S C"]
    ) -> None:
        self.heard.append((point.layer, outputs))

    def score(self, view: View) -> Float[Tensor, "B V"]:
        return view.attention_rows(view.at_layer)[:, :, 0].mean(dim=1)


def test_a_probed_layer_is_observed_once_and_with_what_it_gives() -> None:
    listener = Listener()
    model = tiny_llava()
    with torch.no_grad(), tessella.reduce(model, listener, keep=1.0 / 3) as run:
        model(**tiny_inputs((1,)))
    assert [layer for layer, _ in listener.heard] == [1, 2, 3]
    assert all(outputs.abs().amax() > 0 for _, outputs in listener.heard)
    assert run.num_cuts == 1
