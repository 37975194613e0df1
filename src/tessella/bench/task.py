"""What a task is: questions with a name each, and the rule that scores an answer. Runner and report know no more.

The embedded world is one (`embedded.py`), each public set another (`sets/`, one file a set).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Clip:
    """Frames of a video in order of time."""

    frames: tuple[Image.Image, ...]


Part = str | Image.Image | Clip


@dataclass(frozen=True)
class Asked:
    """One question as it is put to a model.

    `kind` is its type, category or subset, `number` its place there: together they name it for as long as the task's
    version stands. `parts` are texts, pictures and clips in the order of the prompt. `truth` is what answers are scored
    against, as the task writes it: JSON where it is more than one text.
    """

    kind: str
    number: int
    parts: tuple[Part, ...]
    truth: str


@dataclass(frozen=True)
class Answered:
    """An answer with its score, as a ledger holds it."""

    kind: str
    number: int
    answer: str
    truth: str
    score: float


class Task(ABC):
    """Questions and their official metric. An instance is bound to its data; it is cheap until `draw` is called.

    A version is raised whenever the same (kind, number) would be another question, prompt or score.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[str]
    split: ClassVar[str]  # frozen: of the published set, as its authors name it
    metric: ClassVar[str]  # what `score` is the value of: "accuracy", "ANLS"
    max_new_tokens: ClassVar[int]

    @property
    @abstractmethod
    def kinds(self) -> tuple[str, ...]:
        """Types of questions, in the order of the tables."""

    @property
    def usual_kinds(self) -> tuple[str, ...]:
        """Types that are asked where nobody names any."""
        return self.kinds

    @abstractmethod
    def numbers(self, kind: str) -> range:
        """All questions of a kind."""

    @abstractmethod
    def draw(self, kind: str, numbers: Sequence[int]) -> list[Asked]:
        """These questions, in their order. One whose picture is missing is left out; whoever asks counts them."""

    @abstractmethod
    def score(self, answer: str, truth: str) -> float:
        """How right an answer is, in [0, 1]."""

    def metrics(self, answers: Sequence[Answered]) -> dict[str, float]:
        """The official metrics of all answers, the main one first; by default the mean over kinds of the mean score."""
        by_kind: dict[str, list[float]] = {}
        for answer in answers:
            by_kind.setdefault(answer.kind, []).append(answer.score)
        return {self.metric: float(np.mean([np.mean(scores) for scores in by_kind.values()]))} if by_kind else {}

    def facts(self) -> dict[str, Any]:
        """What of the task can change an answer or a score, as plain values: part of every setting's key."""
        return {
            "task": f"{self.id} {self.version}",
            "split": self.split,
            "decoding": f"greedy, at most {self.max_new_tokens} new tokens",
        }
