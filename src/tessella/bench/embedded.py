"""The embedded world as a task: fresh pictures and questions for every seed, in exact match."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ..core.errors import InputError
from ..mini.questions import KINDS, sample
from .task import Asked, Task

SEED_STRIDE = 1_000_000  # questions of a kind between the first ones of two seeds
SEED_OFFSET = 200_000  # beyond the samples by which the embedded model was evaluated and shown
MAX_SEED = 1_000_000  # sample seeds stay far inside 64 bits


class Embedded(Task):
    """Eight kinds of questions about drawn pictures; another `seed` draws other ones."""

    id = "mini"
    title = "The embedded world"
    version = "1"
    split = "test"
    metric = "accuracy"
    max_new_tokens = 6  # right answers have at most five

    def __init__(self, seed: int = 0) -> None:
        self.first = first_number(seed)

    @property
    def kinds(self) -> tuple[str, ...]:
        return KINDS

    def numbers(self, kind: str) -> range:
        return range(self.first, self.first + SEED_STRIDE)

    def draw(self, kind: str, numbers: Sequence[int]) -> list[Asked]:
        drawn = [(n, sample(kind, n, self.split)) for n in numbers]
        return [Asked(kind, n, (s.image, s.question), s.answer) for n, s in drawn]

    def score(self, answer: str, truth: str) -> float:
        """Exact match."""
        return float(answer == truth)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "task": f"mini world {self.version}", "pictures": pictures_digest()}


def first_number(seed: int) -> int:
    """The number of a seed's first question. Raises InputError for a seed outside its range."""
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed must be between 0 and {MAX_SEED:,}; got {seed}.")
    return seed * SEED_STRIDE + SEED_OFFSET


def pictures_digest(kinds: Sequence[str] = KINDS, numbers: Sequence[int] = (0,)) -> str:
    """Digest of drawn samples, pixels included: it moves with the generator and with the library that draws."""
    digest = hashlib.sha256()
    for kind in kinds:
        for number in numbers:
            drawn = sample(kind, number, Embedded.split)
            digest.update(f"{kind}\n{number}\n{drawn.question}\n{drawn.answer}\n".encode())
            digest.update(drawn.image.convert("RGB").tobytes())
    return digest.hexdigest()[:16]
