"""A user's own samples as a task, and which of them the search may look at."""

from __future__ import annotations

import string
from collections.abc import Sequence
from random import Random
from typing import Any

from ..bench.task import Asked, Task
from ..core.errors import InputError
from ..samples import Sample, digest_samples

MIN_SAMPLES = 40
NO_KIND = "all"  # of samples that have none


class OwnQuestions(Task):
    """Samples with right answers. The number of a question is its place among the samples.

    Raises InputError for samples without an answer or a picture, and for fewer than `MIN_SAMPLES`.
    """

    id = "own"
    title = "The user's own questions"
    version = "1"
    split = "own"
    metric = "accuracy"

    def __init__(self, samples: Sequence[Sample], processor: Any) -> None:
        check_samples(samples)
        self.samples = tuple(samples)
        lengths = processor.tokenizer([s.answer for s in samples], add_special_tokens=False)["input_ids"]
        self.max_new_tokens = max(map(len, lengths)) + 1  # one more, so that a longer answer shows

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(sorted({kind_of(s) for s in self.samples}))

    def numbers(self, kind: str) -> range:
        """All samples, of whatever kind."""
        return range(len(self.samples))

    def draw(self, kind: str, numbers: Sequence[int]) -> list[Asked]:
        """The samples with these numbers that are of the kind."""
        return [asked for asked in self.ask(numbers) if asked.kind == kind]

    def ask(self, numbers: Sequence[int]) -> list[Asked]:
        """The samples with these numbers."""
        chosen = [(n, self.samples[n]) for n in numbers]
        return [Asked(kind_of(s), n, (*s.images, s.question.strip()), str(s.answer)) for n, s in chosen]

    def score(self, answer: str, truth: str) -> float:
        """1 for the same words in the same order, whatever their case and the punctuation around them."""
        return float(_words(answer) == _words(truth))

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), "pictures": digest_samples(self.samples)}


def kind_of(sample: Sample) -> str:
    return sample.kind or NO_KIND


def check_samples(samples: Sequence[Sample]) -> None:
    """Raise InputError unless there are enough samples and each has a picture and an answer."""
    if len(samples) < MIN_SAMPLES:
        raise InputError(
            f"tuning needs at least {MIN_SAMPLES} samples, half of them to judge what was found on the others; "
            f"got {len(samples)}."
        )
    for what, lacking in (
        ("answer", [n for n, s in enumerate(samples, start=1) if not s.answer]),
        ("picture", [n for n, s in enumerate(samples, start=1) if not s.images]),
    ):
        if lacking:
            raise InputError(
                f"tuning compares answers about pictures with right ones; {len(lacking)} of {len(samples)} samples "
                f"have no {what}, the first is number {lacking[0]}."
            )


def divide_samples(samples: Sequence[Sample], seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the samples to search on, and of those held out: about half of each kind, drawn by the seed.

    Both go through the kinds in turn, so that the first few questions are of many kinds.
    """
    by_kind: dict[str, list[int]] = {}
    for number, sample in enumerate(samples):
        by_kind.setdefault(kind_of(sample), []).append(number)
    random, parts, taken = Random(seed), ([], []), 0
    for kind in sorted(by_kind):
        random.shuffle(by_kind[kind])
        for place, number in enumerate(by_kind[kind]):
            parts[taken % 2].append((place, kind, number))
            taken += 1
    search, held_out = ([number for *_, number in sorted(part)] for part in parts)
    return search, held_out


def _words(text: str) -> list[str]:
    stripped = (word.strip(string.punctuation) for word in text.casefold().split())
    return [word for word in stripped if word]
