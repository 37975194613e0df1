"""How far a run is and how long it will take, from the speed measured for each setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Answers in the ledger out of all, seconds left, and what was answered last."""

    answers: int
    total: int
    seconds_left: float
    pipeline: str
    kind: str


@dataclass
class _Mean:
    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else 0.0


class Pace:
    """Counts batches per setting and their mean time. A setting not measured yet is taken to be as fast as the mean."""

    def __init__(self, total: int, finished: int, todo: Sequence[Sequence[str]]) -> None:
        """`todo` has for each batch the keys of the settings that are to answer it."""
        self._total, self._answers = total, finished
        self._left: dict[str, int] = {}
        for keys in todo:
            for key in keys:
                self._left[key] = self._left.get(key, 0) + 1
        self._all = _Mean()
        self._by_setting = {key: _Mean() for key in self._left}

    def answered(self, setting: str, answers: int, seconds: float) -> None:
        """A setting has answered a batch; the first one's seconds include drawing and encoding."""
        self.answered_elsewhere(setting, answers)
        self._by_setting[setting].add(seconds)
        self._all.add(seconds)

    def answered_elsewhere(self, setting: str, answers: int) -> None:
        """Another job has answered a batch under a setting."""
        self._answers += answers
        self._left[setting] -= 1

    def progress(self, pipeline: str, kind: str) -> Progress:
        means = {key: mean.value if mean.count else self._all.value for key, mean in self._by_setting.items()}
        left = sum(count * means[key] for key, count in self._left.items())
        return Progress(self._answers, self._total, left, pipeline, kind)
