"""Findings on ledgers in which one thing is wrong, with numbers that can be counted by hand."""

from __future__ import annotations

import dataclasses

import pytest
from synthetic import Row, rows_of, setting

from tessella.bench.lint import Finding, lint
from tessella.bench.lint.expected import EXPECTED
from tessella.bench.summary import summarize

N = 40


def of_rule(rows: list[Row], rule: str, where: str | None = None) -> list[Finding]:
    """Findings of one rule, which are also those that a finished summary gives."""
    found = lint(rows, resamples=500)
    assert found == lint(rows, summarize(rows, resamples=500))
    return [f for f in found if f.rule == rule and where in (None, f.where)]


def both(marks: str) -> dict[str, str]:
    return {"colour": marks, "place": marks}


def test_a_sound_ledger_has_notes_only(small_bench):
    found = lint([row for row in small_bench if row[0].method != "poor"])
    assert {f.level for f in found} == {"warning", "note"}
    assert {f.rule for f in found} == {
        "noise",
        "yes-bias",
    }  # all truths are 'yes' here, so that errors look like a bias


def test_unequal_counts_name_what_is_lacking(small_bench):
    rows = [
        *(row for row in small_bench if row[0].pipeline != "poor:1/4" or row[1].number < 30),
        *rows_of("other:1/4", {"colour": "1" * 10}, first=35),
        *rows_of("extra:1/4", both("1" * 42)),
    ]
    extra, short, other = of_rule(rows, "counts")
    assert (extra.where, extra.text) == ("extra:1/4", "lacks 0 of the 80 questions of none, with 4 others")
    assert (short.level, short.where) == ("warning", "poor:1/4")
    assert short.text == "lacks 20 of the 80 questions of none"
    assert short.numbers == {"lacking": 20, "more": 0, "questions": 80, "settings": 1}
    assert (other.where, other.text) == ("other:1/4", "lacks 75 of the 80 questions of none, with 5 others")


def test_a_curve_that_rises_where_tokens_are_taken_away(small_bench):
    assert of_rule(small_bench, "curve") == []
    rows = [
        *small_bench,
        *rows_of("odd:1/4", both("1" * 8 + "0" * 32), 50),
        *rows_of("odd:1/9", both("1" * 30 + "0" * 10), 22),
    ]
    [rise] = of_rule(rows, "curve")
    assert (rise.level, rise.where) == ("warning", "odd")
    assert rise.numbers["rise"] == pytest.approx(22 / 40)
    assert 0 < rise.numbers["low"] < 22 / 40 < rise.numbers["high"]
    assert rise.text.startswith("answers better on 22 tokens than on 50 (keep 1/9 and 1/4), by 55.0 [")
    # one question more is no rise beyond the interval
    flat = [*rows_of("odd:1/4", both("1" * 20 + "0" * 20), 50), *rows_of("odd:1/9", both("1" * 21 + "0" * 19), 22)]
    assert of_rule([*small_bench, *flat], "curve") == []


def test_references_that_are_not_what_they_say(small_bench):
    rows = [row for row in small_bench if row[0].method not in ("none", "blind")]
    missing = of_rule(rows, "baseline")
    assert [(f.level, f.where) for f in missing] == [("warning", "none"), ("warning", "blind")]
    assert missing[0].text == "was not measured; nothing is compared with it"
    wrong = [*rows, *rows_of("none", both("1" * N), tokens=180), *rows_of("blind", both("0" * N), tokens=2)]
    blind, full = of_rule(wrong, "baseline")
    assert str(full) == "error: none: keeps 90.0% of the tokens, not all"
    assert str(blind) == "error: blind: keeps 1.0% of the tokens, not none"


def test_down_sampled_pictures_need_as_many_tokens_as_methods_keep(small_bench):
    rows = [row for row in small_bench if row[0].pipeline != "downsample:1/9"]
    [none] = of_rule(rows, "baseline")
    assert (none.level, none.where) == ("note", "keep 1/9")
    [few] = of_rule([*rows, *rows_of("downsample:1/9", both("1" * N), tokens=16)], "baseline")
    assert (few.where, few.numbers) == ("downsample:1/9", {"tokens": 16.0, "methods": 22.0})


def test_all_tokens_must_give_the_answers_of_the_full_model(small_bench):
    full = {"colour": "1" * 38 + "00", "place": "1" * 36 + "0000"}
    assert of_rule([*small_bench, *rows_of("good:1.0", full, tokens=200)], "baseline", "good:1.0") == []
    off = full | {"place": "1" * 33 + "0" * 7}
    [finding] = of_rule([*small_bench, *rows_of("good:1.0", off, tokens=200)], "baseline", "good:1.0")
    assert finding.level == "error"
    assert finding.numbers == {"different": 3, "questions": 80}
    assert finding.text == "gives 3 of 80 answers unlike the full model, though it keeps every token"


def test_the_full_row_is_held_against_what_its_weights_are_known_for(monkeypatch):
    weights = setting("none").details["weights"]
    monkeypatch.setitem(EXPECTED, ("world", weights), {"colour": 0.95, "place": 0.9})

    def full(colour: int) -> list[Row]:
        marks = {"colour": "1" * colour + "0" * (N - colour), "place": "1" * 34 + "0" * 6}
        return [*rows_of("none", marks, tokens=200), *rows_of("blind", both("0" * N), tokens=0)]

    # 36 of 40 are five points below, within 2.24 errors of sqrt(.05 * .95 / 40) = 3.4 points; 28 of 40 are 25 below
    assert of_rule(full(36), "baseline") == []
    [finding] = of_rule(full(28), "baseline")
    assert (finding.level, finding.where) == ("error", "none")
    assert finding.numbers == {"accuracy": 0.7, "expected": 0.95, "questions": 40}
    assert finding.text == "answers 70.0% of 40 questions of colour; these weights are known to answer 95.0%"


def test_yes_said_too_often_and_too_seldom():
    def answers(what: str, right: str, said: str) -> list[Row]:
        tokens = {"none": 200, "shy:1/4": 50}.get(what, 22)
        made = rows_of(what, {"existence": "1" * len(said)}, tokens)
        words = {"y": "yes", "n": "no"}
        return [
            (s, dataclasses.replace(r, answer=words[a].upper() + "." if a == "y" else words[a], truth=words[t]))
            for (s, r), a, t in zip(made, said, right, strict=True)
        ]

    truth = "yn" * 20
    rows = [
        *answers("none", truth, truth),
        *answers("shy:1/4", truth, "n" * 30 + "yn" * 5),
        *answers("shy:1/9", truth, "n" * 40),
        *answers("keen:1/9", truth, "y" * 34 + "n" * 6),
        *answers("fair:1/9", truth, "yyn" + "yn" * 18 + "n"),
        *answers("blind", truth, "y" * 40),
    ]
    keen, shy = sorted(of_rule(rows, "yes-bias"), key=lambda f: f.where)
    assert shy.text == "says 'yes' to 12% (keep 1/4), 0% (keep 1/9) of 40 questions of which 50% deserve it"
    assert (keen.where, keen.numbers) == ("keen", {"truth": 0.5, "questions": 40, "keep 1/9": 0.85})


def test_leads_inside_the_noise(small_bench):
    first = of_rule(small_bench, "noise", "keep 1/4")[0]
    assert first.text == "good is first, but its lead over fair (up to 1.2 points) is inside the noise"
    assert first.numbers == pytest.approx({"settings": 1, "lead": 1 / 80})
    assert not [f for f in of_rule(small_bench, "noise", "keep 1/9") if "is first" in f.text]  # 20 points are no noise
    near = rows_of("near:1/9", {"colour": "1" * 20 + "0" * 20, "place": "1" * 13 + "0" * 27})
    found = of_rule([*small_bench, *near], "noise", "keep 1/9")
    assert [f.text for f in found] == [
        "the lead of near over down-sampled pictures (up to 1.2 points) is inside the noise"
    ]


def test_questions_that_need_no_picture(small_bench):
    assert of_rule(small_bench, "blind") == []  # 6 of 38 and 4 of 36
    rows = [row for row in small_bench if row[0].method != "blind"]
    seeing = [*rows, *rows_of("blind", {"colour": "1" * 20 + "0" * 20, "place": "1" * 10 + "0" * 30}, tokens=0)]
    [kind] = of_rule(seeing, "blind")
    assert str(kind) == "note: colour: 53% (50.0% of 95.0%) of the full accuracy needs no picture"
    [overall, *_] = of_rule([*rows, *rows_of("blind", both("1" * 30 + "0" * 10), tokens=0)], "blind")
    assert (overall.level, overall.where) == ("warning", "all types")
    assert overall.numbers == pytest.approx({"blind": 0.75, "full": 0.925})


def test_scores_that_are_no_yes_or_no(small_bench):
    graded = [(s, dataclasses.replace(r, score=0.5 * r.score + 0.25)) for s, r in small_bench]
    found = lint(graded, resamples=500)
    [first] = [f for f in found if f.rule == "noise" and f.where == "keep 1/4"][:1]
    assert first.numbers["lead"] == pytest.approx(0.5 / 80)


def test_the_worst_comes_first_and_many_names_are_cut(small_bench):
    rows = [row for row in small_bench if row[0].method != "none"]
    rows += rows_of("none", both("1" * N), tokens=180)
    for n in range(9):
        rows += rows_of(f"part{n}:1/4", both("1" * 10), tokens=50)
    found = lint(rows, resamples=100)
    levels = [f.level for f in found]
    assert levels == sorted(levels, key=("error", "warning", "note").index)
    assert levels[0] == "error"
    [counts] = [f for f in found if f.rule == "counts"]
    assert counts.where == "part0:1/4, part1:1/4, part2:1/4, part3:1/4, part4:1/4 and 4 more"
    assert counts.to_dict()["numbers"]["settings"] == 9
