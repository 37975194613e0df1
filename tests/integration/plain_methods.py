"""Methods whose decision anybody can compute by hand; `comparing` does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tessella.core.cards import Card
from tessella.core.contracts import Scorer
from tessella.core.model_info import ModelInfo
from tessella.core.view import Captures, View
from tessella.testing.tiny import NUM_VISUAL


@dataclass(frozen=True)
class Norm(Scorer):
    """Keeps the longest vectors in front of `at_layer`."""

    at_layer: int = 0
    id = "norm"
    card = Card(title="Norm", stages=("connector", "prefill"))

    def score(self, view: View) -> Tensor:
        return view.tokens.embeddings.float().norm(dim=-1)


@dataclass(frozen=True)
class Fixed(Scorer):
    """Keeps the tokens of the lowest remainder of `factor * index` by 16: the same ones for every picture."""

    at_layer: int = 0
    factor: int = 7
    id = "fixed"
    card = Card(title="Fixed", stages=("connector", "prefill"))

    def score(self, view: View) -> Tensor:
        rank = torch.arange(view.mask.shape[1]) * self.factor % NUM_VISUAL
        return -rank.float().expand(view.mask.shape)


@dataclass(frozen=True)
class Features(Scorer):
    """Keeps the longest encoder features."""

    id = "features"
    card = Card(title="Features", stages=("connector",), needs=("features",))

    def score(self, view: View) -> Tensor:
        return view.features().float().norm(dim=-1)


@dataclass(frozen=True)
class Asked(Scorer):
    """Keeps what the last prompt token attends to in the layer before `at_layer`."""

    at_layer: int = 2
    id = "asked"
    card = Card(title="Asked", stages=("prefill",), needs=("decoder_rows",))

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(decoder=(self.at_layer - 1,))

    def score(self, view: View) -> Tensor:
        return view.attention_rows(layer=self.at_layer - 1)[:, :, 0].mean(dim=1)


@dataclass(frozen=True)
class Drawn(Scorer):
    """Keeps tokens at random."""

    seed: int = 0
    id = "drawn"
    card = Card(title="Drawn", stages=("connector",))

    def score(self, view: View) -> Tensor:
        return view.uniforms(self.seed)
