"""Methods that ask a text tower: left out where there is none, and measured under the tower's own digest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageTextToText

import tessella
from tessella import mini
from tessella.bench.entries import Choice, resolve
from tessella.bench.identity import identify_tower
from tessella.core.cards import Card
from tessella.core.contracts import Scorer
from tessella.core.errors import UnsupportedError
from tessella.core.pipeline import Part, Pipeline
from tessella.core.view import View


@dataclass(frozen=True)
class Asks(Scorer):
    card = Card("Asks", stages=("connector",), needs=("text_tower",), prompt_dependent=True)
    id = "asks"

    def score(self, view: View) -> torch.Tensor:
        raise AssertionError("nothing is read")


def choice(method: Any, asked: bool) -> Choice:
    return Choice(Pipeline((Part(method, tessella.Budget(0.5)),)), method.id, "1/2", asked)


def test_without_a_tower_a_method_is_left_out_with_a_note() -> None:
    model = AutoModelForImageTextToText.from_pretrained(mini.path())
    plain = choice(tessella.make("random"), False)
    entries, notes = resolve(model, [choice(Asks(), False), plain], {})
    assert [e.setting.method for e in entries] == ["random"]
    assert len(notes) == 1
    assert notes[0].startswith("asks is left out: asks needs a text tower")
    with pytest.raises(UnsupportedError, match=r"^asks: asks needs a text tower"):
        resolve(model, [choice(Asks(), True)], {})


def test_the_setting_holds_the_towers_digest_where_it_is_asked() -> None:
    model, _ = tessella.load("mini", device="cpu")
    entries, notes = resolve(model, [choice(Asks(), True), choice(tessella.make("random"), False)], {})
    assert notes == []
    tower = tessella.load_text_tower("mini", device="cpu")
    assert entries[0].setting.details["text_tower"] == identify_tower(tower)
    assert "text_tower" not in entries[1].setting.details
    with torch.no_grad():
        tower.visual_projection.weight[0, 0] += 1
    assert entries[0].setting.details["text_tower"] != identify_tower(tower)
