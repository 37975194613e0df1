"""Verdicts on rows built so that each of them occurs, with numbers that can be counted by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from claim_rows import CLAIM, FULL_ROWS, N, bench, right, rows
from synthetic import rows_of, setting

from tessella.bench.claims.claim import Claim, Halfway
from tessella.bench.claims.conditions import Floor, Has, Layers, TextDominates
from tessella.bench.claims.evidence import DOMINANCE, canonical, gather
from tessella.bench.claims.page import verdict_table
from tessella.bench.claims.rule import evaluate
from tessella.bench.embedded import first_number
from tessella.bench.records import FULL
from tessella.bench.statistics import Bootstrap, percentile_interval
from tessella.core.errors import InputError


def test_shown() -> None:
    """30 and 50 against 20 and 40 of 60: a sixth more of either type, always the same questions and ten more."""
    verdict = evaluate(CLAIM, gather(rows()))
    assert verdict.status == "shown"
    [compared] = verdict.compared
    assert compared.values == pytest.approx(((30 + 50) / 120, (20 + 40) / 120))
    assert compared.difference.value == pytest.approx(1 / 6)
    assert compared.difference.level == 0.95
    # two types of 60 with p = 1/6: a spread of sqrt(2 * (1/6 * 5/6) / 60) / 2 = 0.0340
    assert compared.difference.low == pytest.approx(1 / 6 - 1.96 * 0.0340, abs=0.006)
    assert compared.difference.high == pytest.approx(1 / 6 + 1.96 * 0.0340, abs=0.006)


def test_not_shown_if_the_interval_holds_the_margin() -> None:
    assert evaluate(CLAIM, gather(rows(place=21, colour=40))).status == "not shown"
    assert evaluate(CLAIM, gather(rows(place=10, colour=30))).status == "not shown"  # the opposite shows
    sure = gather(rows())
    assert evaluate(dataclasses.replace(CLAIM, margin=0.09), sure).status == "shown"
    assert evaluate(dataclasses.replace(CLAIM, margin=0.11), sure).status == "not shown"


def test_less_is_the_mirror_of_more() -> None:
    less = dataclasses.replace(CLAIM, comparisons=(("random:1/9", "divprune:1/9"),), direction="less")
    [mirrored], [plain] = evaluate(less, gather(rows())).compared, evaluate(CLAIM, gather(rows())).compared
    assert mirrored.shown
    assert mirrored.difference.value == pytest.approx(-plain.difference.value)
    assert mirrored.difference.low == pytest.approx(-plain.difference.high)
    assert mirrored.difference.high == pytest.approx(-plain.difference.low)
    assert evaluate(dataclasses.replace(CLAIM, direction="less"), gather(rows())).status == "not shown"
    assert evaluate(dataclasses.replace(less, margin=0.11), gather(rows())).status == "not shown"


def test_halfway_is_the_mean_of_two_pipelines_question_by_question() -> None:
    """Random is right on 20 of 60 places, the full model on 54: halfway is 37."""
    place = dataclasses.replace(CLAIM, kinds=("place",))
    for right_ones, status in ((50, "shown"), (37, "not shown"), (30, "not shown")):
        half = dataclasses.replace(place, comparisons=(("divprune:1/9", Halfway("random:1/9", "none")),))
        verdict = evaluate(half, gather(rows(place=right_ones)))
        [compared] = verdict.compared
        assert verdict.status == status
        assert compared.values == pytest.approx((right_ones / 60, 37 / 60))
        assert compared.difference.value == pytest.approx((right_ones - 37) / 60)
        assert compared.second == "halfway from random:1/9 to none"
    assert half.pipelines == ("divprune:1/9", "random:1/9", "none")


def test_needs_a_larger_model_only_if_a_precondition_fails() -> None:
    """Full has 54 places and 60 colours of 60 each: 0.95 on the mean over types."""
    just = dataclasses.replace(CLAIM, preconditions=(Floor(0.95),))
    above = dataclasses.replace(CLAIM, preconditions=(Floor(0.951),))
    assert evaluate(just, gather(rows())).status == "shown"
    verdict = evaluate(above, gather(rows()))
    assert verdict.status == "needs a larger model"
    assert verdict.reasons == ("fails: the full model is right on at least 95% of the questions",)
    assert verdict.compared == ()
    deep = dataclasses.replace(CLAIM, preconditions=(Layers(8),))
    assert evaluate(deep, gather(rows(), num_layers=8)).status == "shown"
    assert evaluate(deep, gather(rows(), num_layers=7)).status == "needs a larger model"
    unknown = evaluate(deep, gather(rows()))
    assert (unknown.status, unknown.reasons) == (
        "not measured",
        ("not known: the language model has at least 8 layers",),
    )


def test_only_the_questions_of_the_claim_count() -> None:
    """More rows after the first 60 and of other types would turn the verdict, and are not looked at."""
    later = [
        *rows_of("random:1/9", {"place": right(500, 500)}, first=first_number(0) + N),
        *rows_of("divprune:1/9", {"place": right(0, 500), "count": right(0)}, first=first_number(0) + N),
    ]
    assert evaluate(CLAIM, gather([*rows(), *later])) == evaluate(CLAIM, gather(rows()))


def test_missing_questions_are_named() -> None:
    few = [row for row in rows() if row[0].method != "random" or row[1].number < first_number(0) + N - 1]
    verdict = evaluate(CLAIM, gather(few))
    assert (verdict.status, verdict.missing) == ("not measured", ("random:1/9",))
    no_full = evaluate(CLAIM, gather([row for row in rows() if row[0].method != FULL]))
    assert no_full.missing == (FULL,)
    other_seed = evaluate(dataclasses.replace(CLAIM, seed=1), gather(rows()))
    assert other_seed.missing == (FULL, "divprune:1/9", "random:1/9")


def test_comparisons_of_one_claim_are_corrected_together() -> None:
    """Six of 60 questions gained and none lost. Of binomial(60, 0.1), 0 has 0.18 %, 0 and 1 together 1.4 %.

    So the lower 2.5 % end at 2 of 60, but the lower 2.5 / 20 % at 0.
    """
    many = [f"uniform:{n}" for n in range(1, 21)]
    table = bench("random:1/9", {"place": right(20)})
    for pipeline in many:
        table += bench(pipeline, {"place": right(26)})
    one = Claim("one", "", "", (("uniform:1", "random:1/9"),), ("place",), samples=N)
    all_of_them = dataclasses.replace(one, comparisons=tuple((p, "random:1/9") for p in many))
    alone, together = evaluate(one, gather(table)), evaluate(all_of_them, gather(table))
    assert (alone.status, together.status) == ("shown", "not shown")
    assert alone.compared[0].difference.low == pytest.approx(2 / 60)
    assert {c.difference.level for c in together.compared} == {1 - (1 - 0.95) / 20}
    assert {c.difference.low for c in together.compared} == {0.0}
    level = dataclasses.replace(all_of_them, comparisons=all_of_them.comparisons[:2], margin=0.02)  # 1.2 of 60
    assert {c.difference.level for c in evaluate(level, gather(table)).compared} == {1 - (1 - 0.95) / 2}
    with pytest.raises(InputError, match="one needs at least 400 resamples; got 399"):
        evaluate(one, gather(table), resamples=399)


def test_one_failing_comparison_is_enough() -> None:
    two = dataclasses.replace(CLAIM, comparisons=(*CLAIM.comparisons, ("hiprune:1/9", "random:1/9")))
    table = [*rows(), *bench("hiprune:1/9", {"place": right(20), "colour": right(40)})]
    verdict = evaluate(two, gather(table))
    assert verdict.status == "not shown"
    assert [c.shown for c in verdict.compared] == [True, False]
    assert [c.difference.level for c in verdict.compared] == pytest.approx([0.975, 0.95])
    row = verdict_table([verdict]).rows[0]
    assert row[3] == "not shown (1 of 2)"
    assert row[4:6] == ("divprune:1/9 > random:1/9", "66.7, 50.0 %")
    assert row[7:] == ("97.50", "yes")
    assert verdict_table([verdict]).rows[1][4:7] == ("hiprune:1/9 > random:1/9", "50.0, 50.0 %", "0.0 [0.0, 0.0]")


def test_a_keep_in_the_text_is_the_same_as_one_beside_it() -> None:
    """The bench names a method with its budget by the whole text; the answers are of one pipeline."""
    beside = setting("random:1/9")
    inside = dataclasses.replace(beside, method="random:1/9", keep=None)
    assert inside.key != beside.key
    table = [*rows_of(beside, {"place": "10"}), *rows_of(inside, {"colour": "1"})]
    assert sorted(k for k, _ in gather(table).scores["random:1/9"]) == ["colour", "place", "place"]


def test_rows_of_one_pipeline_twice_are_refused_where_they_matter() -> None:
    twice = [*rows(), *rows_of(setting("random:1/9", positions="compact"), {"place": "1"})]
    with pytest.raises(InputError, match="random:1/9 is there under several settings"):
        gather(twice)
    assert set(gather(twice, needed={"none"}).scores) == {"none"}
    with pytest.raises(InputError, match="different model cannot be compared"):
        gather([*rows(), *rows_of(setting("hiprune:1/9", model="other"), {"place": "1"})])


def test_pipelines_are_compared_by_meaning() -> None:
    quarter = dataclasses.replace(CLAIM, comparisons=(("divprune:1/4", "random:2/8"),))
    assert quarter.pipelines == ("divprune:0.25", "random:0.25")
    table = [*bench("none", FULL_ROWS), *bench("divprune:0.25", FULL_ROWS), *bench("random:0.25", FULL_ROWS)]
    assert evaluate(quarter, gather(table)).compared[0].difference.value == 0.0
    assert canonical("a_method_of_another_version:1/9") == "a_method_of_another_version:1/9"


def test_a_model_without_what_a_method_is_about_is_too_small() -> None:
    claim = dataclasses.replace(CLAIM, preconditions=(Has("frames"),))
    assert evaluate(claim, gather(rows(), abilities=frozenset({"frames"}))).status == "shown"
    verdict = evaluate(claim, gather([], abilities=frozenset({"grid"})))
    assert (verdict.status, verdict.reasons) == (
        "needs a larger model",
        ("fails: a model with the frames of a clip",),
    )
    assert evaluate(claim, gather(rows())).reasons == ("not known: a model with the frames of a clip",)


def test_types_that_nobody_was_asked_about_are_not_measured() -> None:
    verdict = evaluate(dataclasses.replace(CLAIM, kinds=("shots",)), gather(rows()))
    assert (verdict.status, verdict.missing) == ("not measured", (FULL, "divprune:1/9", "random:1/9"))


def test_dominance_by_hand() -> None:
    """The full model 10 and 20 in turn, reduced 1: 14 less, in the index's own unit."""
    claim = Claim(
        "falls",
        "",
        "",
        (("text_dominance:1/9", "none"),),
        ("place",),
        metric=DOMINANCE,
        direction="less",
        margin=13.0,
        samples=40,
        preconditions=(TextDominates(),),
    )
    full = {q: 10.0 + 10.0 * (n % 2) for n, q in enumerate(claim.questions)}
    reduced = dict.fromkeys(claim.questions, 1.0)
    evidence = gather([], dominance={"none": full, "text_dominance:1/9": reduced})
    verdict = evaluate(dataclasses.replace(claim, margin=12.0), evidence)
    assert verdict.status == "shown"
    assert verdict.compared[0].values == (1.0, 15.0)
    low = verdict.compared[0].difference.low
    assert low == pytest.approx(-14 - 1.96 * 5 / 40**0.5, abs=0.1)
    assert evaluate(claim, evidence).status == "not shown"
    assert verdict_table([verdict]).rows[0][5] == "1.0, 15.0"
    assert verdict_table([verdict]).rows[0][6].startswith("-14.0 [-15.")
    balanced = gather([], dominance={"none": reduced, "text_dominance:1/9": reduced})
    assert evaluate(claim, balanced).status == "needs a larger model"
    assert evaluate(claim, gather([], dominance={"none": full})).missing == ("text_dominance:1/9",)


def test_intervals_are_those_of_the_bootstrap() -> None:
    values = np.array([[c == "1" for c in right(30) + right(50)], [c == "1" for c in right(20) + right(40)]])
    draws = Bootstrap(values, CLAIM.questions, seed=5, resamples=1000).difference(0, 1)
    estimate = evaluate(CLAIM, gather(rows()), seed=5, resamples=1000).compared[0].difference
    assert (estimate.low, estimate.high) == percentile_interval(draws.resampled)
