"""Settings compared two by two, each time on all questions that both have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..statistics import Bootstrap, Draws, Question
from ..summary import Measured


class Pairing:
    """Paired differences between settings; pairs with the same questions in common share one bootstrap."""

    def __init__(self, measured: Sequence[Measured], seed: int = 0, resamples: int = 2000) -> None:
        self.measured, self.seed, self.resamples = tuple(measured), seed, resamples
        self._questions = {m.setting.key: frozenset(m.records) for m in measured}
        self._bootstraps: dict[frozenset[Question], tuple[Bootstrap, dict[str, int]]] = {}

    def difference(self, first: Measured, second: Measured) -> Draws | None:
        """Mean score over types of the first minus that of the second; None where they share no question."""
        common = self._questions[first.setting.key] & self._questions[second.setting.key]
        if not common:
            return None
        bootstrap, place = self._bootstrap(common)
        return bootstrap.difference(place[first.setting.key], place[second.setting.key])

    def _bootstrap(self, common: frozenset[Question]) -> tuple[Bootstrap, dict[str, int]]:
        if common not in self._bootstraps:
            questions = sorted(common)
            having = [m for m in self.measured if common <= self._questions[m.setting.key]]
            values = np.array([[m.records[q].score for q in questions] for m in having])
            if np.isin(values, (0, 1)).all():
                values = values.astype(bool)  # resampled exactly, and in half the time
            place = {m.setting.key: n for n, m in enumerate(having)}
            self._bootstraps[common] = Bootstrap(values, questions, self.seed, self.resamples), place
        return self._bootstraps[common]
