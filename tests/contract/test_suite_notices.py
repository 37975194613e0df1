"""The contract suite fails on methods that break one thing each.

Paper    none
Acts     nowhere: these methods are wrong on purpose
Needs    nothing
Differs  each in the way that its name says
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tessella.core.budget import Counts
from tessella.core.cards import Card
from tessella.core.contracts import Merger, Method, Scorer, Selector, mask_of
from tessella.core.model_info import ModelInfo
from tessella.core.reduction import Reduction
from tessella.core.view import Captures, View
from tessella.ops.selection import top_indices
from tessella.testing import CHECKS

CARD = Card(title="Wrong", stages=("connector",), baseline=True)


@dataclass(frozen=True)
class Sound(Scorer):
    """Breaks nothing; the others are made from it."""

    card = CARD
    id = "sound"

    def score(self, view: View) -> Float[Tensor, "B V"]:
        return view.tokens.embeddings.float().sum(dim=2)


def picks(view: View, counts: Counts) -> Int[Tensor, "B K"]:
    return top_indices(view.tokens.embeddings.float().sum(dim=2), counts.num_keep, view.mask)


@dataclass(frozen=True)
class Untitled(Sound):
    card = dataclasses.replace(CARD, title=" ")
    id = "untitled"


@dataclass(frozen=True)
class Undeclared(Sound):
    id = "undeclared"

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(encoder=(1,))


@dataclass
class Settable(Selector):
    power: float = 1.0

    card = CARD
    id = "settable"

    def select(self, view: View, counts: Counts) -> Int[Tensor, "B K"]:
        return picks(view, counts)


@dataclass(frozen=True)
class Forgetful(Sound):
    power: float = 1.0
    id = "forgetful"

    def __repr__(self) -> str:
        return "Forgetful()"


@dataclass(frozen=True)
class Elsewhere(Sound):
    id = "uniform"  # another method's


@dataclass(frozen=True)
class OneShort(Sound):
    id = "oneshort"

    def reduce(self, view: View, counts: Counts) -> Reduction:
        fewer = tuple(max(1, k - 1) for k in counts.num_keep)
        return super().reduce(view, dataclasses.replace(counts, num_keep=fewer))


@dataclass(frozen=True)
class Miscounts(Sound):
    id = "miscounts"

    def reduce(self, view: View, counts: Counts) -> Reduction:
        return dataclasses.replace(super().reduce(view, counts), num_kept=counts.num_tokens)


@dataclass(frozen=True)
class Padded(Selector):
    card = CARD
    id = "padded"

    def select(self, view: View, counts: Counts) -> Int[Tensor, "B K"]:
        return top_indices(view.tokens.embeddings.sum(dim=2), counts.num_keep, torch.ones_like(view.mask))


@dataclass(frozen=True)
class Misordered(Merger):
    card = CARD
    id = "misordered"

    def merge(self, view: View, counts: Counts) -> Reduction:
        order = picks(view, counts)
        wrong = torch.where(order >= 0, order[:, :1], -1)
        return Reduction(mask_of(order, view.mask.shape[1]), counts.num_keep, order=wrong)


@dataclass(frozen=True)
class Narrow(Merger):
    card = CARD
    id = "narrow"

    def merge(self, view: View, counts: Counts) -> Reduction:
        order = picks(view, counts)
        return Reduction(mask_of(order, view.mask.shape[1]), counts.num_keep, view.tokens.embeddings[:, :1])


@dataclass(frozen=True)
class Sociable(Sound):
    id = "sociable"

    def score(self, view: View) -> Float[Tensor, "B V"]:
        tokens = view.tokens.embeddings.float()
        return (tokens - tokens.mean(dim=(0, 1))).square().sum(dim=2)  # the mean of the whole batch


@dataclass(frozen=True)
class Moody(Sound):
    id = "moody"

    def score(self, view: View) -> Float[Tensor, "B V"]:
        return torch.rand(view.mask.shape)


@dataclass(frozen=True)
class Widening(Merger):
    card = CARD
    id = "widening"

    def merge(self, view: View, counts: Counts) -> Reduction:
        order = picks(view, counts)
        rows = torch.arange(len(order))[:, None]
        tokens = view.tokens.embeddings.float()[rows, order.clamp(min=0)]
        return Reduction(mask_of(order, view.mask.shape[1]), counts.num_keep, tokens, order=order)


@dataclass(frozen=True)
class Scribbling(Sound):
    id = "scribbling"

    def score(self, view: View) -> Float[Tensor, "B V"]:
        return view.tokens.embeddings.mul_(2).float().sum(dim=2)


@dataclass(frozen=True)
class Shy(Sound):
    id = "shy"

    def reduce(self, view: View, counts: Counts) -> Reduction:
        reduction = super().reduce(view, counts)
        return reduction if view.mask.shape[1] > 1 else Reduction(torch.zeros_like(view.mask), (0,))


@dataclass(frozen=True)
class Unfair(Sound):
    id = "unfair"

    def reduce(self, view: View, counts: Counts) -> Reduction:
        later_first = torch.arange(view.mask.shape[1]) * 1e-6
        order = top_indices(self.score(view) + later_first, counts.num_keep, view.mask)
        return Reduction(mask_of(order, view.mask.shape[1]), counts.num_keep)


WRONG: list[tuple[str, type[Method], str]] = [
    ("card", Untitled, "no title"),
    ("card", Undeclared, "captures"),
    ("frozen", Settable, "can be set"),
    ("repr", Forgetful, "gives another method"),
    ("text", Elsewhere, "reads back as"),
    ("count", OneShort, "asked for exactly|num_kept says"),
    ("count", Miscounts, "num_kept says"),
    ("real_tokens", Padded, "padding was kept"),
    ("aligned", Misordered, "order does not hold"),
    ("aligned", Narrow, "embeddings are"),
    ("alone", Sociable, "alone and in a batch differ in keep"),
    ("deterministic", Moody, "draws from torch's global generator"),
    ("dtypes", Widening, "embeddings are torch.float32"),
    ("inputs", Scribbling, "embeddings was written to"),
    ("one_token", Shy, "the only token was dropped"),
    ("ties", Unfair, "at ties"),
]


@pytest.mark.parametrize("check, cls, message", WRONG, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_check_fails(check: str, cls: Any, message: str) -> None:
    method = cls(power=2.0) if cls is Forgetful else cls()
    with pytest.raises(AssertionError, match=message):
        CHECKS[check](method)


def test_every_check_has_a_method_that_fails_it() -> None:
    assert {check for check, _, _ in WRONG} == set(CHECKS)


@pytest.mark.parametrize("check", [c for c in CHECKS if c != "text"])  # no registry knows it
def test_sound_method_passes(check: str) -> None:
    CHECKS[check](Sound())
