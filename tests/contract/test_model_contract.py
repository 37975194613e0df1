"""Every registered method against the engine half of the contract suite."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

import tessella
from tessella.core.cards import Card
from tessella.core.contracts import Scorer
from tessella.core.pipeline import example_of
from tessella.core.view import View
from tessella.testing import MODEL_CHECKS


@pytest.mark.parametrize("check", MODEL_CHECKS)
@pytest.mark.parametrize("method", tessella.methods())
def test_method_on_a_model(method: str, check: str) -> None:
    MODEL_CHECKS[check](example_of(method).parts[0].method)


@dataclasses.dataclass(frozen=True)
class Fickle(Scorer):
    """Scores that change from call to call, which the suite must notice."""

    calls: list[int] = dataclasses.field(default_factory=list)

    card = Card("Fickle", stages=("connector",))
    id = "fickle"

    def score(self, view: View) -> Tensor:
        self.calls.append(1)
        place = torch.arange(view.mask.shape[1])
        return ((place * 5 + len(self.calls) * 7) % 16).float().expand(view.mask.shape)


@pytest.mark.parametrize("check", ["same_again", "batch_equals_single"])
def test_the_suite_notices_a_fickle_method(check: str) -> None:
    with pytest.raises(AssertionError, match="fickle"):
        MODEL_CHECKS[check](Fickle())
