"""What a method is shown of a layer's queries and keys before it runs is what that layer makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import tessella
from tessella.core.cards import Card
from tessella.core.contracts import Scorer
from tessella.core.model_info import ModelInfo
from tessella.core.view import Captures, View
from tessella.testing.families import TinyFamily
from tessella.testing.family_cases import inputs_of, prompts


@dataclass(frozen=True)
class Projects(Scorer):
    """Compares attention among visual tokens from `project` with that of the layer that has run."""

    at_layer: int = 2
    id = "projects"
    card = Card(title="Projects", stages=("prefill",))

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(decoder=(self.at_layer - 1,), decoder_inputs=(self.at_layer - 1,))

    def score(self, view: View) -> Tensor:
        layer = self.at_layer - 1
        ran = view.attention_rows(layer, softmax="visual")
        attention = self.attention[layer]
        rows = []
        for rotate in (True, False):
            query, key = view.project(layer, rotate=rotate)
            last, visual = (view.places(of).clamp(min=0)[:, None, :, None] for of in ("last", "visual"))
            picked = query.gather(2, last.expand(-1, query.shape[1], -1, query.shape[3]))
            among = key.gather(2, visual.expand(-1, key.shape[1], -1, key.shape[3]))
            among = among.repeat_interleave(picked.shape[1] // among.shape[1], dim=1)
            scores = picked @ among.transpose(2, 3) * attention.scaling
            bound = getattr(attention, "attn_logit_softcapping", None)
            scores = scores if bound is None else torch.tanh(scores / bound) * bound
            rows.append(scores.masked_fill(~view.mask[:, None, None, :], float("-inf")).softmax(dim=-1))
        torch.testing.assert_close(rows[0], ran, atol=1e-5, rtol=1e-5)
        assert (rows[1] - ran).abs().max() > 0.01
        return ran[:, :, 0].mean(dim=1)

    attention = ()  # modules of the decoder layers, set by the test


@pytest.mark.parametrize("at_layer", [1, 2, 3])
def test_projections_are_those_of_the_layer(
    family: TinyFamily, model: Any, at_layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = model.model
    decoder = body.language_model if hasattr(body, "language_model") else body.text_model
    monkeypatch.setattr(Projects, "attention", [layer.self_attn for layer in decoder.layers])
    inputs = inputs_of(family, list(prompts(family).values())[-1])
    with tessella.reduce(model, Projects(at_layer), keep=0.5) as run:
        model(**inputs)
    assert run.num_cuts == 1
