"""What a search is for, and when a trial cannot serve it any more."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ..core.budget import format_keep
from ..core.errors import BudgetError, InputError
from ..core.pipeline import Pipeline

ENOUGH = 16  # questions before a trial may be stopped
SPREADS = 2.0  # standard errors by which a trial must be off before it is stopped
OVER = 10.0  # added to the rank of a trial that keeps more than it may


@dataclass(frozen=True, eq=False)
class Trial:
    """A pipeline on the questions of the search, or on the first of them where it was stopped.

    `cost` is the share of visual tokens on the mean over layers; `loss` the full model's accuracy minus this one's, as
    a mean over kinds; `right` the score of each question in the order asked.
    """

    pipeline: Pipeline
    right: Float[ndarray, " Q"]
    cost: float
    loss: float
    finished: bool = True


@dataclass(frozen=True)
class Goal:
    """Either the cheapest pipeline that loses at most `lose` (a share, 0.01 is a point), or the best at `keep`.

    `slack`: how far above `keep` a cost may lie, because tokens are whole.
    """

    lose: float | None = None
    keep: Fraction | None = None
    slack: float = 0.0

    def __str__(self) -> str:
        if self.keep is not None:
            return f"the best at {format_keep(self.keep)} of the visual tokens on the mean over layers"
        assert self.lose is not None
        return f"the cheapest that loses at most {100 * self.lose:g} points"

    def allows(self, trial: Trial) -> bool:
        """Whether a trial keeps to the limit."""
        if self.keep is not None:
            return trial.cost <= self.keep + self.slack
        assert self.lose is not None
        return trial.loss <= self.lose + 1e-9

    def rank(self, trial: Trial) -> float:
        """Lower is better; what keeps to the limit is in front of what does not."""
        if self.keep is not None:
            return trial.loss + (0.0 if self.allows(trial) else OVER)
        assert self.lose is not None
        return trial.cost if self.allows(trial) else 1.0 + trial.loss - self.lose

    def is_hopeless(self, so_far: Trial, full: Float[ndarray, " Q"], best: Trial | None) -> bool:
        """Whether a trial that has answered some questions will hardly be better than `best`, or keep to the limit."""
        number = len(so_far.right)
        if number < ENOUGH:
            return False
        if self.keep is not None:
            if not self.allows(so_far):
                return True
            return best is not None and _surely_above(best.right[:number] - so_far.right, 0.0)
        assert self.lose is not None
        lost = full[:number] - so_far.right
        if best is not None and self.allows(best) and so_far.cost >= best.cost:
            return float(lost.mean()) >= float((full - best.right)[:number].mean())
        return _surely_above(lost, self.lose)


def make_goal(lose: float | None, keep: Fraction | int | None) -> Goal:
    """The goal of a request. Raises InputError or BudgetError for limits that make no sense or are two."""
    if lose is not None and keep is not None:
        raise InputError(f"give lose or keep: the best at a keep has no limit of its loss; got lose={lose:g} too.")
    if keep is None:
        lose = 1.0 if lose is None else lose
        if not (math.isfinite(lose) and 0 <= lose < 100):
            raise InputError(f"lose must be points of accuracy, at least 0 and below 100; got {lose:g}.")
        return Goal(lose=lose / 100)
    if isinstance(keep, int):
        raise BudgetError(f"keep must be a share of the visual tokens here, below 1, such as 1/9; got {keep} tokens.")
    if keep == 1:
        raise BudgetError("keep=1.0 is every token; there is nothing to tune. Give a share below 1, such as 1/9.")
    return Goal(keep=keep)


def choose(trials: list[Trial], goal: Goal) -> Trial:
    """The best finished trial, whether or not it keeps to the limit."""
    return min(trials, key=lambda trial: (goal.rank(trial), trial.loss, trial.cost))


def front_of(trials: list[Trial], goal: Goal, most: int) -> list[Trial]:
    """At most so many trials, cheapest first: those of which no other is cheaper and loses less.

    With a fixed keep, where all cost about the same, the best ones.
    """
    if goal.keep is not None:
        best = sorted(trials, key=lambda trial: (goal.rank(trial), trial.cost))[:most]
        return sorted(best, key=lambda trial: trial.cost)
    front: list[Trial] = []
    for trial in sorted(trials, key=lambda trial: (trial.cost, trial.loss)):
        if not front or trial.loss < front[-1].loss:
            front.append(trial)
    if len(front) <= most:
        return front
    places = np.linspace(0, len(front) - 1, most).round().astype(int)
    return [front[place] for place in places]


def _surely_above(values: Float[ndarray, " Q"], limit: float) -> bool:
    error = float(values.std()) / math.sqrt(len(values))
    return float(values.mean()) - SPREADS * error > limit
