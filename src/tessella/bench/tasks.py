"""The questions of a benchmark: fresh pictures of the embedded world, in batches whose members never change."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..core.errors import InputError
from ..mini.questions import KINDS, Sample, sample

TASK_VERSION = "1"  # raised whenever a seed draws another picture, question or answer
SPLIT = "test"
MAX_NEW_TOKENS = 6  # right answers have at most five
SEED_STRIDE = 1_000_000  # samples between the first ones of two seeds
SEED_OFFSET = 200_000  # beyond the samples by which the embedded model was evaluated and shown
MAX_SEED = 1_000_000  # sample seeds stay far inside 64 bits


@dataclass(frozen=True)
class Batch:
    """Samples that are answered together. `seeds` are its members, `wanted` those of them that were asked for.

    Members depend on the first seed and the batch size alone, not on how many samples are asked for, so that a sample
    is answered in the same company whenever it is.
    """

    kind: str
    seeds: range
    wanted: range

    def draw(self) -> list[Sample]:
        return [sample(self.kind, seed, SPLIT) for seed in self.seeds]


def first_seed(seed: int) -> int:
    """The seed of the first sample. Raises InputError for a seed outside its range."""
    if not 0 <= seed <= MAX_SEED:
        raise InputError(f"seed must be between 0 and {MAX_SEED:,}; got {seed}.")
    return seed * SEED_STRIDE + SEED_OFFSET


def read_kinds(text: str | None) -> tuple[str, ...]:
    """Question types from a text with commas, all by default. Raises InputError with the closest one."""
    if text is None:
        return KINDS
    kinds = tuple(part.strip() for part in text.split(","))
    for kind in kinds:
        if kind not in KINDS:
            close = difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.5)
            hint = f" Closest: {close[0]!r}." if close else ""
            raise InputError(f"no question type {kind!r}; allowed: {', '.join(KINDS)}.{hint}")
    twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if twice:
        raise InputError(f"types names {twice!r} twice.")
    return kinds


def batch_size(limit: int, batch: int) -> int:
    """Samples in a batch: no more than are asked for. Raises InputError for counts below 1 or too many samples."""
    if not 1 <= limit <= SEED_STRIDE:
        raise InputError(f"limit must be between 1 and {SEED_STRIDE:,} samples of each type; got {limit}.")
    if batch < 1:
        raise InputError(f"batch must be at least 1; got {batch}.")
    return min(limit, batch)


def batches(kinds: Sequence[str], first: int, limit: int, size: int) -> Iterator[Batch]:
    """The batches that hold the first `limit` samples of each type.

    >>> [(b.seeds, b.wanted) for b in batches(("digit",), 100, 5, 3)]
    [(range(100, 103), range(100, 103)), (range(103, 106), range(103, 105))]
    """
    for kind in kinds:
        for start in range(first, first + limit, size):
            yield Batch(kind, range(start, start + size), range(start, min(start + size, first + limit)))


def is_correct(answer: str, truth: str) -> bool:
    """Exact match."""
    return answer == truth


def pictures_digest(kinds: Sequence[str] = KINDS, seeds: Sequence[int] = (0,)) -> str:
    """Digest of drawn samples, pixels included: it moves with the generator and with the library that draws."""
    digest = hashlib.sha256()
    for kind in kinds:
        for seed in seeds:
            drawn = sample(kind, seed, SPLIT)
            digest.update(f"{kind}\n{seed}\n{drawn.question}\n{drawn.answer}\n".encode())
            digest.update(drawn.image.convert("RGB").tobytes())
    return digest.hexdigest()[:16]
