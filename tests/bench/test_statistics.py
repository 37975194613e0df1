"""The paired bootstrap against enumeration by hand, scipy, simulated coverage and its own symmetries."""

from __future__ import annotations

import doctest
import itertools
import time
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats

from tessella.bench import regions, statistics, tables
from tessella.bench.statistics import (
    Bootstrap,
    Draws,
    Estimate,
    Question,
    hard_subset,
    holm,
    mcnemar,
    on_subset,
    percentile_interval,
    resampled_means,
    resampling_weights,
    wilson,
)
from tessella.core.errors import InputError


def right(*rows: str) -> np.ndarray:
    """Rows of 0 and 1 as right and wrong."""
    return np.array([[c == "1" for c in row] for row in rows])


def named(kind: str, num: int) -> list[Question]:
    return [(kind, seed) for seed in range(num)]


def quantile(atoms: dict[Fraction, Fraction], share: float) -> float:
    """The smallest value below or at which at least `share` of the probability lies."""
    total = Fraction(0)
    for value in sorted(atoms):
        total += atoms[value]
        if total >= share:
            return float(value)
    raise AssertionError("probabilities do not add up")


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_three_questions_by_hand() -> None:
    """First right, right, wrong; second wrong, right, wrong: differences 1, 0, 0.

    27 equally likely resamples hold the 1 zero to three times: a mean of 0 in 8, 1/3 in 12, 2/3 in 6, 1 in 1 of them.
    The upper 2.5 % begin inside the last (1/27 = 3.7 %), the upper 5 % inside the ones before (7/27).
    """
    values = right("110", "010")
    everything = list(itertools.product(range(3), repeat=3))
    weights = np.array([[drawn.count(i) for i in range(3)] for drawn in everything], dtype=np.float32)
    first, second = resampled_means(values, weights)
    difference = first - second
    assert np.bincount((difference * 3).round().astype(int)).tolist() == [8, 12, 6, 1]
    # 27 sorted values: place 0.975 * 26 = 25.35 lies between 2/3 (place 25) and 1 (place 26)
    assert percentile_interval(difference) == pytest.approx((0.0, 2 / 3 + 0.35 / 3))
    bootstrap = Bootstrap(values, named("place", 3), seed=1, resamples=50_000)
    draws = bootstrap.difference(0, 1)
    assert draws.estimate() == Estimate(pytest.approx(1 / 3), 0.0, 1.0)
    assert draws.estimate(0.9) == Estimate(pytest.approx(1 / 3), 0.0, pytest.approx(2 / 3), 0.9)
    shares = np.bincount((draws.resampled * 3).round().astype(int), minlength=4) / 50_000
    assert shares == pytest.approx(np.array([8, 12, 6, 1]) / 27, abs=0.01)
    assert bootstrap.mean(0).value == pytest.approx(2 / 3)


def test_two_types_by_hand() -> None:
    """Types of three and of two questions count the same; each is drawn within itself: 27 x 4 resamples."""
    values = right("110" + "10", "010" + "01")
    questions = [*named("place", 3), *named("colour", 2)]
    atoms: dict[Fraction, Fraction] = {}
    for place in itertools.product((1, 0, 0), repeat=3):
        for colour in itertools.product((1, -1), repeat=2):
            mean = (Fraction(sum(place), 3) + Fraction(sum(colour), 2)) / 2
            atoms[mean] = atoms.get(mean, Fraction(0)) + Fraction(1, 108)
    draws = Bootstrap(values, questions, seed=3, resamples=50_000).difference(0, 1)
    assert draws.value == pytest.approx(1 / 6)  # (1/3 + 0) / 2, not the pooled 1/5
    for value, share in atoms.items():
        assert np.isclose(draws.resampled, float(value)).mean() == pytest.approx(float(share), abs=0.01)
    for level in (0.95, 0.8, 0.5):
        want = (quantile(atoms, (1 - level) / 2), quantile(atoms, (1 + level) / 2))
        assert percentile_interval(draws.resampled, level) == pytest.approx(want), level


def test_resampling_weights_count_draws() -> None:
    weights = resampling_weights(7, 20_000, np.random.default_rng(0))
    assert weights.shape == (20_000, 7)
    assert (weights.sum(axis=1) == 7).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(7), abs=0.03)
    assert weights.var(axis=0) == pytest.approx(np.full(7, 6 / 7), abs=0.05)  # of a multinomial: n p (1 - p)


def test_retention_by_hand() -> None:
    """Full 8, blind 2, a method 5 of 10 right: half of what the picture brings."""
    values = right("1111111100", "1100000000", "1111100000")
    few = Bootstrap(values[:, 5:9], named("shape", 4), resamples=3000)  # full 3 of 4, blind 0, the method 0
    assert few.difference(0, 1).value == 0.75
    assert few.retention(2, full=0, blind=1) is None  # 1 resample in 256 holds nothing but the fourth question
    many = Bootstrap(np.repeat(values, 20, axis=1), named("shape", 200), resamples=3000)
    kept = many.retention(2, full=0, blind=1)
    assert kept is not None
    assert kept.value == pytest.approx(0.5)
    low, high = kept.estimate().low, kept.estimate().high
    # (5 - 2) of (8 - 2): 60 of 120 questions, as a share of those drawn: a spread of about 0.5 / sqrt(120)
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.5 / 120**0.5, 0.5 + 1.96 * 0.5 / 120**0.5), abs=0.02)
    full, blind = many.retention(0, full=0, blind=1), many.retention(1, full=0, blind=1)
    assert full is not None
    assert full.estimate() == Estimate(1.0, 1.0, 1.0)
    assert blind is not None
    assert blind.estimate() == Estimate(0.0, 0.0, 0.0)
    assert many.retention(2, full=1, blind=0) is None
    assert many.retention(2, full=1, blind=1) is None


# -- against others ----------------------------------------------------------------------------------------------------


def test_paired_difference_equals_scipy() -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(2, 90)) + np.array([[0.3], [0.0]]) + rng.normal(size=90)
    ours = Bootstrap(values, named("digit", 90), seed=2, resamples=20_000).difference(0, 1).estimate()
    theirs = scipy.stats.bootstrap(
        (values[0], values[1]),
        lambda a, b, axis: (a - b).mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(7),
    ).confidence_interval
    spread = (values[0] - values[1]).std() / 90**0.5
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.12 * spread)
    assert ours.high - ours.low == pytest.approx(3.92 * spread, rel=0.05)


def test_stratified_mean_equals_scipy() -> None:
    """Differences of three types as three independent samples, and the mean of their means."""
    rng = np.random.default_rng(6)
    sizes = {"colour": 40, "place": 60, "reading": 25}
    questions = [q for kind, n in sizes.items() for q in named(kind, n)]
    values = rng.random((2, len(questions))) < np.array([[0.8], [0.6]])
    parts = np.split((values[0].astype(float) - values[1]), [40, 100])
    ours = Bootstrap(values, questions, resamples=20_000).difference(0, 1)
    theirs = scipy.stats.bootstrap(
        parts,
        lambda a, b, c, axis: (a.mean(axis=axis) + b.mean(axis=axis) + c.mean(axis=axis)) / 3,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(8),
    )
    spread = theirs.standard_error
    assert ours.resampled.std() == pytest.approx(spread, rel=0.03)
    want = (theirs.confidence_interval.low, theirs.confidence_interval.high)
    assert percentile_interval(ours.resampled) == pytest.approx(want, abs=0.12 * spread)
    assert ours.value == pytest.approx(np.mean([p.mean() for p in parts]))


def test_mcnemar_equals_the_binomial_test() -> None:
    for first, second in itertools.product((0, 1, 5, 12, 700), (0, 1, 9, 640)):
        want = scipy.stats.binomtest(first, first + second).pvalue if first + second else 1.0
        assert mcnemar(first, second) == pytest.approx(want)
    assert mcnemar(5, 1) == 14 / 64  # 2 (1 + 6) / 2^6


def test_wilson_equals_scipy() -> None:
    for num_right, asked in ((0, 8), (8, 8), (3, 40), (199, 400)):
        estimate = wilson(num_right, asked, 0.9)
        want = scipy.stats.binomtest(num_right, asked).proportion_ci(0.9, method="wilson")
        assert estimate is not None
        assert (estimate.low, estimate.high) == pytest.approx((want.low, want.high), abs=1e-12)
        assert estimate.low <= estimate.value == num_right / asked <= estimate.high
    assert wilson(0, 0) is None


# -- what must hold ----------------------------------------------------------------------------------------------------


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    """500 worlds of two types with known accuracies; the methods are right on overlapping questions."""
    rng, hits = np.random.default_rng(11), {"difference": 0, "mean": 0}
    questions = [*named("count", 150), *named("place", 100)]
    hard = np.repeat([0.2, 0.5], [150, 100])  # share of questions that are beyond the second method
    for world in range(500):
        ease = rng.random(250)
        second = ease > hard
        first = (ease > hard + 0.1) | (rng.random(250) < 0.15)
        bootstrap = Bootstrap(np.stack([first, second]), questions, seed=world, resamples=400)
        # P(first) = 1 - (hard + 0.1) 0.85: 0.745 and 0.49; P(second): 0.8 and 0.5
        difference, mean = bootstrap.difference(0, 1).estimate(), bootstrap.mean(0).estimate()
        hits["difference"] += difference.low <= (-0.055 - 0.01) / 2 <= difference.high
        hits["mean"] += mean.low <= (0.745 + 0.49) / 2 <= mean.high
    for share in hits.values():
        assert 0.92 <= share / 500 <= 0.975  # 95 %, less the percentile interval's known shortfall


def test_identical_settings_differ_by_exactly_nothing() -> None:
    rng = np.random.default_rng(3)
    row = rng.random(300) < 0.37
    questions = [(kind, s) for kind in ("a", "b", "c") for s in range(100)]
    bootstrap = Bootstrap(np.stack([row, ~row, row]), questions)
    assert bootstrap.difference(0, 2).estimate() == Estimate(0.0, 0.0, 0.0)
    assert bootstrap.difference(0, 2, ["b"]).estimate() == Estimate(0.0, 0.0, 0.0)
    assert bootstrap.difference(0, 2).estimate().side() == "="
    assert bootstrap.discordant(0, 2) == (0, 0)


def test_order_of_questions_and_settings_is_nothing() -> None:
    rng = np.random.default_rng(4)
    values = rng.random((3, 200)) < 0.6
    questions = [(kind, s) for kind in ("a", "b") for s in range(100)]
    mixed = rng.permutation(200)
    plain, shuffled = Bootstrap(values, questions), Bootstrap(values[:, mixed], [questions[i] for i in mixed])
    swapped = Bootstrap(values[[2, 0, 1]], questions)
    assert plain.difference(0, 1).estimate() == shuffled.difference(0, 1).estimate()
    assert plain.difference(0, 1).estimate() == swapped.difference(1, 2).estimate()
    forth, back = plain.difference(0, 1).estimate(), plain.difference(1, 0).estimate()
    assert (back.value, back.low, back.high) == pytest.approx((-forth.value, -forth.high, -forth.low), abs=1e-12)
    assert plain.mean(0).estimate() != Bootstrap(values, questions, seed=1).mean(0).estimate()


def test_a_type_does_not_change_the_interval_of_another() -> None:
    values = np.random.default_rng(4).random((2, 200)) < 0.6
    questions = [(kind, s) for kind in ("a", "b") for s in range(100)]
    alone = Bootstrap(values[:, 100:], questions[100:]).difference(0, 1)
    beside = Bootstrap(values, questions).difference(0, 1, ["b"])
    assert alone.value == beside.value
    assert np.array_equal(alone.resampled, beside.resampled)


def test_blocks_of_resamples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values, questions = np.random.default_rng(4).random((2, 50)) < 0.6, named("a", 50)
    whole = Bootstrap(values, questions, resamples=200).draws
    monkeypatch.setattr("tessella.bench.statistics.BLOCK", 50 * 64)
    assert np.array_equal(Bootstrap(values, questions, resamples=200).draws, whole)


def test_a_whole_table_in_a_second() -> None:
    values = np.random.default_rng(0).random((60, 1600)) < 0.7
    questions = [(kind, s) for kind in "abcdefgh" for s in range(200)]
    start = time.process_time()
    bootstrap = Bootstrap(values, questions)
    table = [[bootstrap.difference(s, r).estimate() for r in (0, 1, 2)] for s in range(60)]
    assert time.process_time() - start < 1.0
    assert table[0][0].side() == "="


def test_hard_subset_by_hand() -> None:
    full, small, method = right("111100", "110010", "011011")
    hard = hard_subset(full, small)
    assert hard.tolist() == [False, False, True, True, False, False]
    there = on_subset(method, hard)
    assert (there.right, there.asked) == (1, 2)
    assert there.to_dict()["share"] == pytest.approx({"value": 0.5, "low": 0.0945, "high": 0.9055, "level": 0.95}, 1e-3)
    empty = on_subset(method, hard_subset(full, full))
    assert empty.estimate is None
    assert empty.to_dict() == {"right": 0, "asked": 0, "share": None}


def uniform_draws(low: float, high: float) -> Draws:
    return Draws((low + high) / 2, np.linspace(low, high, 10_001))


def test_holm_by_hand() -> None:
    """Share of draws below 0: 0, 1 % and 1.5 %. Of three, levels are 1 - 0.05 / 3, then 1 - 0.05 / 2, then 0.95."""
    sure, likely, weak = uniform_draws(1, 2), uniform_draws(-1, 99), uniform_draws(-1.5, 98.5)
    estimates = holm([weak, sure, likely])
    assert [e.level for e in estimates] == pytest.approx([0.95, 1 - 0.05 / 3, 0.975])
    assert [e.side() for e in estimates] == ["better", "better", "better"]
    assert estimates[2].low == pytest.approx(-1 + 0.0125 * 100)
    # 1.5 % beside another of 1.5 % needs 1.25 %: both fail, and share the level of the first failure
    estimates = holm([weak, weak])
    assert [e.level for e in estimates] == pytest.approx([0.975, 0.975])
    assert [e.side() for e in estimates] == ["=", "="]
    assert weak.estimate().side() == "better"  # alone it would pass
    assert [e.side(1.2) for e in holm([sure, likely], margin=1.2)] == ["=", "="]
    worse = Draws(-1.0, np.full(100, -1.0))
    assert [e.side() for e in holm([worse, sure])] == ["worse", "better"]


def test_examples_in_docstrings() -> None:
    results = [doctest.testmod(module) for module in (statistics, tables, regions)]
    assert [(r.failed, r.attempted) for r in results] == [(0, 1), (0, 2), (0, 1)]


def test_refused() -> None:
    one = right("10")
    with pytest.raises(InputError, match="got 1 different of 2 questions"):
        Bootstrap(one, [("a", 1), ("a", 1)])
    with pytest.raises(InputError, match="got 0 different of 0 questions"):
        Bootstrap(np.zeros((2, 0), dtype=bool), [])
    with pytest.raises(InputError, match="2 values a setting"):
        Bootstrap(one, [("a", 1)])
    with pytest.raises(InputError, match="got resamples=0, seed=0"):
        Bootstrap(one, named("a", 2), resamples=0)
    with pytest.raises(InputError, match="values must be finite"):
        Bootstrap(np.array([[1.0, np.nan]]), named("a", 2))
    with pytest.raises(InputError, match="types must be one or more of a; got b"):
        Bootstrap(one, named("a", 2)).mean(0, ["b"])
    with pytest.raises(InputError, match=r"level must be in \(0, 1\); got 95"):
        Bootstrap(one, named("a", 2)).mean(0).estimate(95)
