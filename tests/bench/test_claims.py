"""Verdicts on rows built so that each of them occurs, with numbers that can be counted by hand."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from synthetic import Row, rows_of, setting

import tessella
from tessella.bench import claims, judging, regions, stated_claims
from tessella.bench.claims import BOTTOM, Claim, Evidence, Floor, Layers, Verdict, evaluate, gather
from tessella.bench.records import FULL
from tessella.bench.regions import Thirds, count_thirds, measure_thirds, thirds_table
from tessella.bench.stated_in_model import IN_MODEL
from tessella.bench.statistics import Bootstrap, percentile_interval
from tessella.bench.embedded import first_number
from tessella.core.errors import BudgetError, InputError

N = 60  # questions of a type
FULL_ROWS = {"place": "1" * 54 + "0" * 6, "colour": "1" * 60}
CLAIM = Claim(
    "divprune-random",
    "DivPrune is better.",
    "a paper",
    (("divprune:1/9", "random:1/9"),),
    ("place", "colour"),
    samples=N,
    preconditions=(Floor(0.9),),
)


def bench(pipeline: str, answers: dict[str, str], seed: int = 0) -> list[Row]:
    return rows_of(pipeline, answers, first=first_number(seed))


def right(number: int, of: int = N) -> str:
    return "1" * number + "0" * (of - number)


def rows(place: int = 30, colour: int = 50, full: dict[str, str] | None = None) -> list[Row]:
    """Random selection has 20 places and 40 colours; DivPrune as many of the 60 as given."""
    return [
        *bench("none", full or FULL_ROWS),
        *bench("random:1/9", {"place": right(20), "colour": right(40)}),
        *bench("divprune:1/9", {"place": right(place), "colour": right(colour)}),
    ]


# -- the rule ----------------------------------------------------------------------------------------------------------


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
        half = dataclasses.replace(place, comparisons=(("divprune:1/9", claims.Halfway("random:1/9", "none")),))
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


def test_missing_questions_are_named_with_their_command() -> None:
    few = [row for row in rows() if row[0].method != "random" or row[1].number < first_number(0) + N - 1]
    verdict = evaluate(CLAIM, gather(few))
    assert (verdict.status, verdict.missing) == ("not measured", ("random:1/9",))
    command = 'tessella bench --methods "random" --keep 1/9 --types place,colour --limit 60 --seed 0 --out bench.db'
    assert claims.command_for([verdict]) == [command]
    no_full = evaluate(CLAIM, gather([row for row in rows() if row[0].method != FULL]))
    assert no_full.missing == (FULL,)
    other_seed = evaluate(dataclasses.replace(CLAIM, seed=1), gather(rows()))
    assert other_seed.missing == (FULL, "divprune:1/9", "random:1/9")
    scoped = Verdict(CLAIM, "not measured", missing=("feather:0.5 per layer-mean", "visionzip(merging=False):1/16"))
    [command] = claims.command_for([verdict, scoped], "other.db")
    assert '--methods "random,feather:0.5 per layer-mean,visionzip(merging=False)" --keep 1/9,1/16 ' in command
    assert command.endswith("--out other.db")


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
    row = claims.verdict_table([verdict]).rows[0]
    assert row[3] == "not shown (1 of 2)"
    assert row[4:6] == ("divprune:1/9 > random:1/9", "66.7, 50.0")
    assert row[7:] == ("97.50", "yes")
    assert claims.verdict_table([verdict]).rows[1][4:7] == ("hiprune:1/9 > random:1/9", "50.0, 50.0", "0.0 [0.0, 0.0]")


def test_a_keep_in_the_text_is_the_same_as_one_beside_it() -> None:
    """The bench names a method with its budget by the whole text; the answers are of one pipeline."""
    beside = setting("random:1/9")
    inside = dataclasses.replace(beside, method="random:1/9", keep=None)
    assert inside.key != beside.key
    table = [*rows_of(beside, {"place": "10"}), *rows_of(inside, {"colour": "1"})]
    assert sorted(k for k, _ in gather(table).correct["random:1/9"]) == ["colour", "place", "place"]


def test_rows_of_one_pipeline_twice_are_refused_where_they_matter() -> None:
    twice = [*rows(), *rows_of(setting("random:1/9", positions="compact"), {"place": "1"})]
    with pytest.raises(InputError, match="random:1/9 is there under several settings"):
        gather(twice)
    assert set(gather(twice, needed={"none"}).correct) == {"none"}
    with pytest.raises(InputError, match="different model cannot be compared"):
        gather([*rows(), *rows_of(setting("hiprune:1/9", model="other"), {"place": "1"})])


def test_pipelines_are_compared_by_meaning() -> None:
    quarter = dataclasses.replace(CLAIM, comparisons=(("divprune:1/4", "random:2/8"),))
    assert quarter.pipelines == ("divprune:0.25", "random:0.25")
    table = [*bench("none", FULL_ROWS), *bench("divprune:0.25", FULL_ROWS), *bench("random:0.25", FULL_ROWS)]
    assert evaluate(quarter, gather(table)).compared[0].difference.value == 0.0
    assert claims.canonical("a_method_of_another_version:1/9") == "a_method_of_another_version:1/9"


# -- regions -----------------------------------------------------------------------------------------------------------


def test_thirds_by_hand() -> None:
    """14 rows of 2: rows 0 to 4, 5 to 9 and 10 to 13."""
    thirds = count_thirds([0, 9, 10, 19, 20, 27], rows=14, columns=2)
    assert thirds == Thirds(there=(10, 10, 8), kept=(2, 2, 2))
    assert thirds.share_kept(2) == pytest.approx(2 / 6)
    assert thirds.share_dropped(0) == pytest.approx(8 / 22)
    assert count_thirds([], rows=2, columns=1) == Thirds((1, 1, 0), (0, 0, 0))
    with pytest.raises(InputError, match="no token was kept"):
        Thirds((1, 1, 1), (0, 0, 0)).share_kept(0)
    with pytest.raises(InputError, match="no token was dropped"):
        Thirds((1, 1, 1), (1, 1, 1)).share_dropped(0)


def test_bottom_claim_by_hand() -> None:
    """First keeps 4 of 6 below, and 2 of 6 in every second picture; second always 1 of 6."""
    claim = Claim("bottom", "", "", (("fastv:6", "random:6"),), ("place",), metric=BOTTOM, samples=40)
    there = (10, 10, 8)
    pictures = {q: Thirds(there, (2, 0, 4) if q[1] % 2 else (2, 2, 2)) for q in claim.questions}
    other = dict.fromkeys(claim.questions, Thirds(there, (3, 2, 1)))
    verdict = evaluate(claim, Evidence({}, {"fastv:6": pictures, "random:6": other}))
    assert verdict.status == "shown"
    assert verdict.compared[0].values == pytest.approx((0.5, 1 / 6))
    assert verdict.compared[0].difference.low == pytest.approx(1 / 3 - 1.96 * (1 / 6) / 40**0.5, abs=0.01)
    missing = evaluate(claim, Evidence({}, {"fastv:6": pictures}))
    assert (missing.status, missing.missing) == ("not measured", ("random:6",))
    assert claims.command_for([missing]) == []  # no bench measures regions
    table = thirds_table({"fastv:6": pictures}, 0, 2000)
    # dropped of 22: above 8; in the middle 10 or 8; below 4 or 6
    assert table.rows[0][1] == "36.4 [36.4, 36.4]"
    assert [cell.split()[0] for cell in table.rows[0][2:4]] == ["40.9", "22.7"]
    assert table.rows[0][4] == "40"


@pytest.fixture(scope="module")
def mini() -> tuple[Any, Any]:
    return tessella.load("mini")


def test_thirds_of_a_model(mini: tuple[Any, Any]) -> None:
    """What a grid method keeps is known: 49 of 14 x 14, every second row and column."""
    model, processor = mini
    questions = [("place", 3), ("colour", 4), ("place", 5)]
    whole = measure_thirds(model, processor, "uniform:49", questions)
    assert list(whole) == questions
    assert {t.there for t in whole.values()} == {(70, 70, 56)}
    assert {t.kept for t in whole.values()} == {(14, 21, 14)}
    random = measure_thirds(model, processor, "random:30", questions)
    assert all(sum(t.kept) == 30 for t in random.values())
    one_by_one = {q: measure_thirds(model, processor, "hiprune:20", [q])[q] for q in questions}
    assert measure_thirds(model, processor, "hiprune:20", questions) == one_by_one
    with pytest.raises(BudgetError):
        measure_thirds(model, processor, "random:300", questions)


def test_batches_of_pictures_change_nothing(mini: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    questions = [("place", seed) for seed in range(5)]
    whole = measure_thirds(*mini, "divprune:1/9", questions)
    monkeypatch.setattr(regions, "BATCH", 2)
    assert measure_thirds(*mini, "divprune:1/9", questions) == whole


# -- the stated claims, and the whole way ------------------------------------------------------------------------------


def test_stated_claims_are_well_formed_and_written_down() -> None:
    stated = stated_claims.stated()
    page = (Path(__file__).parents[2] / "docs" / "claims.md").read_text(encoding="utf-8")
    assert len({c.id for c in stated}) == len(stated)
    for claim in stated:
        assert claim.preconditions
        assert claim.samples == 200
        assert claim.level == 0.95
        assert claim.id.rsplit("random-", 1)[0] in page, claim.id
    text = " ".join(page.split())
    for claim in stated_claims.FIRST:
        assert claim.text in text, claim.id
        for a, b in claim.comparisons:
            assert f"`{a}` against `{b}`" in text, claim.id
    for claim in IN_MODEL:
        assert claim.text in text, claim.id
        assert claim.seed == 1  # no earlier claim was decided on these questions
    random = [c for c in stated if c.id.startswith("better-than-random")]
    assert [c.id.rsplit("-", 1)[1] for c in random] == list(stated_claims.KEEPS)
    for claim in random:
        methods = [a.split(":")[0] for a, _ in claim.comparisons]
        assert {"hiprune", "divprune", "visionzip", "uniform"} <= set(methods)
        assert not {"none", "blind", "random"} & set(methods)


def test_judge(mini: tuple[Any, Any]) -> None:
    """Claims on rows and on regions of a real model; a pipeline that cannot run is said so."""
    few = Claim("few", "More below.", "ours", (("uniform:49", "random:300"),), ("place",), metric=BOTTOM, samples=3)
    same = dataclasses.replace(few, id="same", comparisons=(("uniform:49", "uniform:49"),))
    judgement = judging.judge([CLAIM, few, same], rows(), *mini)
    assert [v.status for v in judgement.verdicts] == ["shown", "not measured", "not shown"]
    assert any(n.startswith("few: random:300 cannot run: keep=300") for n in judgement.notes)
    assert judgement.tables[0].rows[0][0] == "uniform:49"
    text = judgement.to_markdown()
    assert text.startswith("### Claims\n\n| claim | text | source | verdict |")
    assert (
        "| divprune-random | DivPrune is better. | a paper | shown | divprune:1/9 > random:1/9 | 66.7, 50.0 |" in text
    )
    plain = json.loads(judgement.to_json())
    assert [c["status"] for c in plain["claims"]] == ["shown", "not measured", "not shown"]
    assert plain["claims"][0]["comparisons"][0]["difference"]["value"] == pytest.approx(1 / 6)
    assert plain["claims"][0]["preconditions"] == ["the full model is right on at least 90% of the questions"]


def test_other_weights_are_refused(mini: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match="other weights than those of 'mini'"):
        judging.check_same_weights(rows(), mini[0], "mini")
    judging.check_same_weights([], mini[0], "mini")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """From a ledger file to the page: with one claim, on rows written under the embedded model's own weights."""
    from tessella.bench.identity import identify_model
    from tessella.bench.ledger import Ledger

    assert claims.main(["--ledger", str(tmp_path / "none.db")]) == 2
    assert "there is no ledger" in capsys.readouterr().err
    assert claims.main(["--ledger", "any.db", "--out", "page.txt"]) == 2
    assert capsys.readouterr().err == "error: --out must end in .md or .json; got 'page.txt'.\n"
    weights = identify_model(tessella.load("mini")[0], "mini")["weights"]
    path = tmp_path / "bench.db"
    mine = {name: setting(name, weights=weights) for name in ("none", "random:1/9", "divprune:1/9")}
    table = [(mine[s.pipeline], dataclasses.replace(r, setting=mine[s.pipeline].key)) for s, r in rows()]
    with Ledger(path) as ledger:
        ledger.begin(list(mine.values()), {})
        ledger.add([record for _, record in table])
    monkeypatch.setattr(stated_claims, "FIRST", (CLAIM,))
    monkeypatch.setattr(stated_claims, "IN_MODEL", ())  # one of them is read from the model alone, for a minute
    assert claims.main(["--ledger", str(path), "--out", str(tmp_path / "page.json")]) == 0
    [first, *others] = json.loads((tmp_path / "page.json").read_text())["claims"]
    assert (first["id"], first["status"]) == ("divprune-random", "shown")
    assert {c["status"] for c in others} == {"not measured"}
    assert claims.main(["--ledger", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "| divprune-random |" in printed
    assert "- to measure what is missing: tessella bench --methods " in printed


def test_intervals_are_those_of_the_bootstrap() -> None:
    values = np.array([[c == "1" for c in right(30) + right(50)], [c == "1" for c in right(20) + right(40)]])
    draws = Bootstrap(values, CLAIM.questions, seed=5, resamples=1000).difference(0, 1)
    estimate = evaluate(CLAIM, gather(rows()), seed=5, resamples=1000).compared[0].difference
    assert (estimate.low, estimate.high) == percentile_interval(draws.resampled)
