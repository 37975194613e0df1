"""The embedded world as a task: fresh pictures and questions for every seed, in exact match."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from ..core.errors import InputError
from ..mini.prompts import ALL_KINDS, draw_prompt
from ..mini.questions import KINDS
from ..mini.variants import VARIANTS
from ..mini.world import WORLD_VERSION
from .task import Asked, Task

SEED_STRIDE = 1_000_000  # questions of a kind between the first ones of two seeds
SEED_OFFSET = 200_000  # beyond the samples by which the embedded model was evaluated and shown
MAX_SEED = 1_000_000  # sample seeds stay far inside 64 bits


class Embedded(Task):
    """Eight kinds of questions about one picture, three about several and two about clips; all are drawn.

    Another `seed` draws other ones. A `variant` is another look of single pictures: sparse or crowded, small or large
    objects. Raises InputError for a variant that there is not.
    """

    id = "mini"
    title = "The embedded world"
    version = WORLD_VERSION
    split = "test"
    metric = "accuracy"
    max_new_tokens = 6  # right answers have at most five

    def __init__(self, seed: int = 0, variant: str = "plain") -> None:
        if variant not in VARIANTS:
            raise InputError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}.")
        self.first, self.variant = first_number(seed), variant

    @property
    def kinds(self) -> tuple[str, ...]:
        return ALL_KINDS if self.variant == "plain" else KINDS

    @property
    def usual_kinds(self) -> tuple[str, ...]:
        return KINDS

    def numbers(self, kind: str) -> range:
        return range(self.first, self.first + SEED_STRIDE)

    def draw(self, kind: str, numbers: Sequence[int]) -> list[Asked]:
        drawn = [(n, draw_prompt(kind, n, self.split, self.variant)) for n in numbers]
        return [Asked(kind, n, p.parts, p.answer) for n, p in drawn]

    def score(self, answer: str, truth: str) -> float:
        """Exact match."""
        return float(answer == truth)

    def facts(self) -> dict[str, Any]:
        name = "mini world" if self.variant == "plain" else f"mini world, {self.variant}"
        return {**super().facts(), "task": f"{name} {self.version}", "pictures": pictures_digest()}


def first_number(seed: int) -> int:
    """The number of a seed's first question. Raises InputError for a seed outside its range."""
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed must be between 0 and {MAX_SEED:,}; got {seed}.")
    return seed * SEED_STRIDE + SEED_OFFSET


def pictures_digest(kinds: Sequence[str] = ALL_KINDS, numbers: Sequence[int] = (0,)) -> str:
    """Digest of drawn samples, pixels included: it moves with the generator and with the library that draws."""
    digest = hashlib.sha256()
    for kind in kinds:
        for number in numbers:
            drawn = draw_prompt(kind, number, Embedded.split)
            digest.update(f"{kind}\n{number}\n{drawn.answer}\n".encode())
            for part in drawn.parts:
                digest.update(part.encode() if isinstance(part, str) else part.convert("RGB").tobytes())
    return digest.hexdigest()[:16]
