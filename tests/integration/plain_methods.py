"""Methods whose decision anybody can compute by hand, and the helpers that do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from oracle import Kept, Oracle
from torch import Tensor, nn

from tessella.core.budget import Counts
from tessella.core.cards import Card
from tessella.core.contracts import Method, Scorer
from tessella.core.model_info import ModelInfo
from tessella.core.reduction import Reduction
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
        return -fixed_rank(view.mask.shape[1], self.factor).float().expand(view.mask.shape)


@dataclass(frozen=True)
class Above(Method):
    """Keeps the vectors that are longer than their picture's mean: another number for every picture."""

    at_layer: int = 0
    id = "above"
    card = Card(title="Above", stages=("connector", "prefill"), count="adaptive", count_reason="a threshold")

    def reduce(self, view: View, counts: Counts) -> Reduction:
        norm = view.tokens.embeddings.float().norm(dim=-1) * view.mask
        mean = norm.sum(dim=1, keepdim=True) / view.mask.sum(dim=1, keepdim=True)
        return Reduction(keep=(norm > mean) & view.mask)


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
class FixedRows(Method):
    """Keeps the tokens that it was told, one list for each row of prompts."""

    at_layer: int = 0
    rows: tuple[tuple[int, ...], ...] = ()
    id = "fixed_rows"
    card = Card(
        title="FixedRows",
        stages=("connector", "prefill"),
        count="adaptive",
        count_reason="told",
        scope="prompt",
        unit="prompt",
    )

    def reduce(self, view: View, counts: Counts) -> Reduction:
        keep = torch.zeros_like(view.mask)
        for row, kept in enumerate(self.rows):
            keep[row, list(kept)] = True
        return Reduction(keep=keep)


@dataclass(frozen=True)
class Drawn(Scorer):
    """Keeps tokens at random."""

    seed: int = 0
    id = "drawn"
    card = Card(title="Drawn", stages=("connector",))

    def score(self, view: View) -> Tensor:
        return view.uniforms(self.seed)


@dataclass(frozen=True)
class Raises(Scorer):
    """Fails while it scores."""

    at_layer: int = 0
    id = "raises"
    card = Card(title="Raises", stages=("connector", "prefill"))

    def score(self, view: View) -> Tensor:
        raise ArithmeticError("this method fails")


def fixed_rank(count: int, factor: int = 7) -> Tensor:
    """The order in which `Fixed` prefers tokens."""
    return torch.arange(count) * factor % NUM_VISUAL


def fixed_kept(keep: int, factor: int = 7) -> list[int]:
    """What `Fixed` keeps of one picture of 16 tokens."""
    return sorted(fixed_rank(NUM_VISUAL, factor).argsort()[:keep].tolist())


def longest(vectors: Tensor, keep: int) -> list[int]:
    """The `keep` longest of `[V, C]`."""
    return sorted(vectors.float().norm(dim=-1).topk(keep).indices.tolist())


@dataclass(frozen=True)
class Row:
    """One row of a batch without its padding."""

    ids: list[int]
    pictures: Tensor | None
    padding: int  # tokens in front of it


def rows_of(inputs: dict[str, Any]) -> list[Row]:
    """The rows of `tiny_inputs`."""
    rows, taken = [], 0
    for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True):
        real = mask.nonzero().reshape(-1)
        mine = ids[real].tolist()
        count = mine.count(5) // NUM_VISUAL
        pictures = inputs["pixel_values"][taken : taken + count] if count else None
        rows.append(Row(mine, pictures, int(real[0])))
        taken += count
    return rows


def oracles(
    model: nn.Module,
    inputs: dict[str, Any],
    kept: Sequence[Kept],
    at_layer: int = 0,
    positions: str = "original",
) -> list[Oracle]:
    """An oracle for each row, which keeps the visual tokens `kept[row]` from `at_layer` on."""
    return [
        Oracle(model, row.ids, row.pictures, [(at_layer, k)], positions)
        for row, k in zip(rows_of(inputs), kept, strict=True)
    ]


def kept_by_norm(model: nn.Module, inputs: dict[str, Any], keep: int, at_layer: int = 0) -> list[list[int]]:
    """What `Norm` keeps of each row, by hand."""
    out = []
    for row in rows_of(inputs):
        oracle = Oracle(model, row.ids, row.pictures)
        pictures = len(oracle.visual) // NUM_VISUAL
        vectors = oracle.states()[at_layer].hidden[oracle.visual].unflatten(0, (pictures, NUM_VISUAL))
        out.append([i * NUM_VISUAL + k for i, picture in enumerate(vectors) for k in longest(picture, keep)])
    return out
