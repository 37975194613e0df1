"""Conditions that a claim writes down: where one fails, a larger or another model is needed to decide it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ...core.cards import NEEDS
from ..records import FULL
from ..statistics import Question
from .evidence import DOMINANCE, Evidence

TILES, LARGE_PICTURES = "tiles", "large_pictures"
ABILITIES = NEEDS | {
    TILES: "several tiles for each picture of the questions",
    LARGE_PICTURES: "pictures in the questions that are larger than those its encoder was made for",
}


class Condition(Protocol):
    """Something that has to hold before a claim is decided; `reads_full`: of the full model's answers."""

    reads_full: bool

    @property
    def text(self) -> str:
        """The condition in words."""

    def holds(self, evidence: Evidence, questions: Sequence[Question]) -> bool | None:
        """Whether it does; None where that is not known."""


@dataclass(frozen=True)
class Floor:
    """The full model answers at least this share of the claim's questions (mean over types), without any interval."""

    least: float
    reads_full = True

    @property
    def text(self) -> str:
        return f"the full model is right on at least {self.least:.0%} of the questions"

    def holds(self, evidence: Evidence, questions: Sequence[Question]) -> bool | None:
        """None if the full model was not measured on all of them."""
        answers = evidence.scores.get(FULL, {})
        if not all(q in answers for q in questions):
            return None
        kinds = sorted({kind for kind, _ in questions})
        shares = [np.mean([answers[q] for q in questions if q[0] == kind]) for kind in kinds]
        return bool(np.mean(shares) >= self.least)


@dataclass(frozen=True)
class Layers:
    """The language model has at least this many layers."""

    least: int
    reads_full = False

    @property
    def text(self) -> str:
        return f"the language model has at least {self.least} layers"

    def holds(self, evidence: Evidence, questions: Sequence[Question]) -> bool | None:
        """None if the number is not known."""
        return None if evidence.num_layers is None else evidence.num_layers >= self.least


@dataclass(frozen=True)
class Has:
    """The model, or what it makes of the questions' pictures, has what the method is about."""

    ability: str  # of ABILITIES
    reads_full = False

    @property
    def text(self) -> str:
        return f"a model with {ABILITIES[self.ability]}"

    def holds(self, evidence: Evidence, questions: Sequence[Question]) -> bool | None:
        """None if the model was not looked at."""
        return None if evidence.abilities is None else self.ability in evidence.abilities


@dataclass(frozen=True)
class TextDominates:
    """In the full model an answer attends more to a token of text than to a visual one, on the mean over questions."""

    reads_full = False

    @property
    def text(self) -> str:
        return "the full model's answers attend more to a text token than to a visual token"

    def holds(self, evidence: Evidence, questions: Sequence[Question]) -> bool | None:
        """None if the full model was not measured on all of them."""
        values = DOMINANCE.values(evidence, FULL)
        return bool(np.mean([values[q] for q in questions]) > 1) if all(q in values for q in questions) else None
