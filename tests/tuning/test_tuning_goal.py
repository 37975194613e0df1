"""What a search prefers, when it stops a trial, and which trials are shown."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from tessella.core.errors import BudgetError, InputError
from tessella.core.pipeline import parse
from tessella.tuning.goal import ENOUGH, Goal, Trial, choose, front_of, make_goal

LOSE, KEEP = Goal(lose=0.02), Goal(keep=Fraction(1, 4), slack=0.002)
FULL = np.ones(40)


def trial(cost: float, loss: float, right: Any = (), finished: bool = True) -> Trial:
    return Trial(parse("random:0.5"), np.array(right, dtype=float), cost, loss, finished)


def marks(wrong: int, of: int) -> list[int]:
    """So many wrong answers, spread out."""
    return [int(n * wrong // of == (n + 1) * wrong // of) for n in range(of)]


def test_a_limit_prefers_the_cheapest_that_keeps_to_it() -> None:
    best, dear, over = trial(0.3, 0.02), trial(0.5, -0.1), trial(0.1, 0.03)
    assert choose([dear, over, best], LOSE) is best
    assert choose([trial(0.1, 0.5), over], LOSE) is over
    assert [LOSE.rank(t) for t in (best, dear)] == [0.3, 0.5]
    assert LOSE.rank(over) == pytest.approx(1.01)


def test_a_keep_prefers_the_best_that_is_no_dearer() -> None:
    best, dear = trial(0.2515, 0.1), trial(0.26, 0.0)
    assert [KEEP.allows(t) for t in (best, dear)] == [True, False]
    assert choose([dear, best, trial(0.1, 0.2)], KEEP) is best


def test_equal_trials_are_told_apart_by_what_they_lose() -> None:
    better = trial(0.3, 0.0)
    assert choose([trial(0.3, 0.01), better], LOSE) is better


@pytest.mark.parametrize(
    "wrong, of, cost, stops",
    [
        (ENOUGH - 1, ENOUGH - 1, 0.1, False),  # too early to say
        (1, ENOUGH, 0.1, False),  # 6 points lost, give or take 6
        (6, ENOUGH, 0.1, True),
        (2, ENOUGH, 0.3, True),  # no cheaper than the best, which has lost one
        (0, ENOUGH, 0.3, False),
    ],
)
def test_a_trial_is_stopped_when_it_cannot_keep_to_the_limit(wrong: int, of: int, cost: float, stops: bool) -> None:
    best = trial(0.3, 0.0, [0, *[1] * 39])
    assert LOSE.is_hopeless(trial(cost, 0.0, marks(wrong, of), False), FULL, best) is stops
    if cost < best.cost:
        assert LOSE.is_hopeless(trial(cost, 0.0, marks(wrong, of), False), FULL, None) is stops


def test_a_trial_is_stopped_when_it_is_surely_worse_at_the_same_keep() -> None:
    best = trial(0.25, 0.1, marks(4, 40))
    assert not KEEP.is_hopeless(trial(0.25, 0.2, marks(4, 20), False), FULL, best)
    assert KEEP.is_hopeless(trial(0.25, 0.2, marks(10, 20), False), FULL, best)
    assert not KEEP.is_hopeless(trial(0.25, 0.2, marks(10, 20), False), FULL, None)
    assert KEEP.is_hopeless(trial(0.26, 0.0, marks(0, 20), False), FULL, None)


def test_the_front_is_what_nothing_beats() -> None:
    a, b, c = trial(0.1, 0.3), trial(0.2, 0.1), trial(0.4, 0.0)
    assert front_of([c, trial(0.3, 0.1), a, trial(0.2, 0.2), b], LOSE, 6) == [a, b, c]
    many = [trial(n / 10, 1 - n / 10) for n in range(1, 8)]
    assert front_of(many, LOSE, 3) == [many[0], many[3], many[6]]
    assert front_of([c, a, b], KEEP, 2) == [a, b]  # the third is too dear


@pytest.mark.parametrize(
    "lose, keep, error, message",
    [
        (-1.0, None, InputError, "lose must be points of accuracy, at least 0 and below 100; got -1."),
        (float("nan"), None, InputError, "got nan"),
        (1.0, Fraction(1, 9), InputError, "give lose or keep"),
        (None, 64, BudgetError, "keep must be a share of the visual tokens here, below 1, such as 1/9; got 64 tokens."),
        (None, Fraction(1), BudgetError, "keep=1.0 is every token; there is nothing to tune."),
    ],
)
def test_limits_that_make_no_sense(lose: Any, keep: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        make_goal(lose, keep)
    assert message in str(raised.value)


def test_a_limit_of_one_point_is_the_default() -> None:
    assert make_goal(None, None) == Goal(lose=0.01)
    assert str(make_goal(2.5, None)) == "the cheapest that loses at most 2.5 points"
    assert str(make_goal(None, Fraction(1, 9))) == "the best at 1/9 of the visual tokens on the mean over layers"
