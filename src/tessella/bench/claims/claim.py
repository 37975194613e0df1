"""What is claimed, and all that decides it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from ..embedded import first_number
from ..statistics import LEVEL, Question
from .conditions import Condition
from .evidence import ACCURACY, Metric, canonical


@dataclass(frozen=True)
class Halfway:
    """The mean of two pipelines with their budgets, question by question; for claims of winning back half."""

    first: str
    second: str

    def __str__(self) -> str:
        return f"halfway from {canonical(self.first)} to {canonical(self.second)}"


@dataclass(frozen=True)
class Claim:
    """What is claimed, and all that decides it.

    `comparisons`: pairs of pipelines with their budgets; the first is said to have `more` or `less` of the metric than
    the second, or than the middle of two, by more than `margin` (in the metric's own unit). `samples` questions of each
    of `kinds` from the bench's `seed` on. `about`: ids of the methods whose paper claims it; none for claims of ours
    about all methods.
    """

    id: str
    text: str
    source: str
    comparisons: tuple[tuple[str, str | Halfway], ...]
    kinds: tuple[str, ...]
    about: tuple[str, ...] = ()
    metric: Metric = ACCURACY
    direction: Literal["more", "less"] = "more"
    margin: float = 0.0
    samples: int = 200
    seed: int = 0
    level: float = LEVEL
    preconditions: tuple[Condition, ...] = ()

    @property
    def questions(self) -> list[Question]:
        start = first_number(self.seed)
        return [(kind, start + n) for kind in self.kinds for n in range(self.samples)]

    @property
    def pipelines(self) -> tuple[str, ...]:
        """Canonical texts of all that are compared, each once."""
        return tuple(dict.fromkeys(canonical(p) for pair in self.comparisons for side in pair for p in sides(side)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the rule's numbers."""
        rule = {name: getattr(self, name) for name in ("direction", "margin", "level", "samples", "seed")}
        return {
            "id": self.id,
            "about": list(self.about),
            "text": self.text,
            "source": self.source,
            "metric": self.metric.name,
            "types": list(self.kinds),
            **rule,
            "compared": [[name_of(a), name_of(b)] for a, b in self.comparisons],
            "preconditions": [p.text for p in self.preconditions],
        }


def sides(side: str | Halfway) -> tuple[str, ...]:
    """The pipelines of one side of a comparison."""
    return (side.first, side.second) if isinstance(side, Halfway) else (side,)


def name_of(side: str | Halfway) -> str:
    """One side of a comparison in words."""
    return str(side) if isinstance(side, Halfway) else canonical(side)
