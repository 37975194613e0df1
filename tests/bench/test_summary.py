"""Summaries of rows whose numbers can be counted by hand."""

from __future__ import annotations

import json
import random

import pytest
from synthetic import Row, rows_of, setting

from tessella.bench.statistics import Estimate
from tessella.bench.summary import Entry, Section, Summary, summarize
from tessella.bench.tables import Table, number, percent, points
from tessella.core.errors import InputError

N = 40  # questions a type


def bench() -> list[Row]:
    """Two types of 40 questions. The overall accuracies: full 0.8, blind 0.2, downsample 0.5, good 0.7, poor 0.3."""
    return [
        *rows_of("none", {"colour": "1" * 36 + "0" * 4, "place": "1" * 28 + "0" * 12}, tokens=200),
        *rows_of("blind", {"colour": "1" * 12 + "0" * 28, "place": "1" * 4 + "0" * 36}, tokens=0),
        *rows_of("downsample:1/9", {"colour": "1" * 20 + "0" * 20, "place": "0" * 20 + "1" * 20}, tokens=22),
        *rows_of("good:1/9", {"colour": "1" * 32 + "0" * 8, "place": "1" * 24 + "0" * 16}, tokens=22),
        *rows_of("poor:1/9", {"colour": "0" * 24 + "1" * 16, "place": "1" * 8 + "0" * 32}, tokens=22),
        *rows_of("twin:1/9", {"colour": "1" * 36 + "0" * 4, "place": "1" * 28 + "0" * 12}, tokens=22),
    ]


def section(summary: Summary, keep: str | None) -> Section:
    return next(s for s in summary.sections if s.keep == keep)


def entry(summary: Summary, method: str, keep: str | None = "1/9") -> Entry:
    return next(e for e in section(summary, keep).entries if e.measured.method == method)


def value(estimate: Estimate | None) -> float:
    assert estimate is not None
    assert estimate.low <= estimate.value <= estimate.high
    return estimate.value


def test_numbers_by_hand() -> None:
    summary = summarize(bench(), resamples=1000)
    assert summary.kinds == ("colour", "place")
    assert [s.keep for s in summary.sections] == ["1/9"]
    names = [e.measured.method for e in summary.sections[0].entries]
    assert names == ["none", "blind", "downsample", "good", "poor", "twin"]
    accuracies = [value(e.accuracy) for e in summary.sections[0].entries]
    assert accuracies == pytest.approx([0.8, 0.2, 0.5, 0.7, 0.3, 0.8])
    good = entry(summary, "good")
    assert [value(good.by_type[k]) for k in summary.kinds] == pytest.approx([0.8, 0.6])
    assert [value(good.contribution[k]) for k in summary.kinds] == pytest.approx([0.5, 0.5])
    assert [value(good.against[m]) for m in ("none", "blind", "downsample")] == pytest.approx([-0.1, 0.5, 0.2])
    assert value(good.retention) == pytest.approx((0.7 - 0.2) / (0.8 - 0.2))
    # hard: full right and downsample wrong are colours 20 to 35 (16) and places 0 to 19 (20)
    assert good.hard is not None
    assert (good.hard.right, good.hard.asked) == (12 + 20, 36)
    poor = entry(summary, "poor")
    assert poor.hard is not None
    assert (poor.hard.right, poor.hard.asked) == (12 + 8, 36)  # colours 24 to 35, places 0 to 7
    # exact McNemar of good and full: 8 questions that only full has right
    assert good.mcnemar_p["none"] == 2 / 2**8
    # colour: 12 only good, 0 only downsample; place: 20 (0 to 19) and 4 (20 to 23 both) -> 16 only downsample
    assert good.mcnemar_p["downsample"] == pytest.approx(0.0293, abs=1e-4)
    assert (good.measured.median("prefill"), good.measured.median("score", "select")) == (3.0, 0.75)
    assert good.measured.median("connect") is None


def test_marks_stand_only_where_the_interval_excludes_0() -> None:
    summary = summarize(bench())
    sides = {e.measured.method: {m: x and x.side() for m, x in e.against.items()} for e in summary.sections[0].entries}
    assert sides["none"] == {"none": None, "blind": "better", "downsample": "better"}
    assert sides["poor"] == {"none": "worse", "blind": "=", "downsample": "worse"}
    assert entry(summary, "twin").against["none"] == Estimate(0.0, 0.0, 0.0)
    rows = {row[0]: row for row in summary.tables()[0].rows}
    assert rows["twin"][4] == "0.0 [0.0, 0.0] ="
    assert rows["poor"][4].startswith("-50.0 [")
    assert rows["poor"][4].endswith("] worse")


def test_references_stand_beside_every_keep() -> None:
    more = [
        *rows_of("good:1/4", {"colour": "1" * N, "place": "1" * N}, tokens=50),
        *rows_of("a:1/2 | b:1/2", {"colour": "1" * N, "place": "0" * N}),
    ]
    own = setting("a:1/2 | b:1/2")
    own = type(own)(own.pipeline, own.pipeline, None, own.details)
    summary = summarize([*bench(), *more[: 2 * N], *((own, r) for _, r in more[2 * N :])])
    assert [s.keep for s in summary.sections] == ["1/4", "1/9", None]
    assert [e.measured.method for e in section(summary, "1/4").entries] == ["none", "blind", "good"]
    assert [e.measured.method for e in section(summary, None).entries] == ["none", "blind", "a:1/2 | b:1/2"]
    good = entry(summary, "good", "1/4")
    assert good.against["downsample"] is None
    assert good.hard is None
    assert value(good.against["none"]) == pytest.approx(0.2)
    assert "keep 1/4: downsample was not measured; nothing is compared with it" in summary.notes
    assert not [n for n in summary.notes if n.startswith("own budgets")]


def test_an_incomplete_setting_is_compared_on_common_questions_and_marked() -> None:
    """Eight colours and eight places: on these full has 8 and 8 right, the setting 6 and 4."""
    part = rows_of("half:1/9", {"colour": "11111100", "place": "11110000"})
    summary = summarize([*bench(), *part])
    half = entry(summary, "half")
    assert (half.num_common, half.num_there, half.name) == (16, 80, "half * (16 of 80)")
    assert value(half.accuracy) == pytest.approx((0.75 + 0.5) / 2)
    assert value(half.against["none"]) == pytest.approx(-(0.25 + 0.5) / 2)
    assert value(entry(summary, "good").accuracy) == pytest.approx(0.7)  # the others lose nothing
    text = "* keep 1/9: half has 16 records, 16 of 80 questions in common with the references"
    assert text in summary.notes
    assert entry(summary, "good") == entry(summarize(bench()), "good")


def test_a_missing_type_leaves_no_overall_value() -> None:
    summary = summarize([*bench(), *rows_of("colours:1/9", {"colour": "1" * N})])
    colours = entry(summary, "colours")
    assert colours.accuracy is None
    assert colours.against == {"none": None, "blind": None, "downsample": None}
    assert colours.retention is None
    assert value(colours.by_type["colour"]) == 1.0
    assert "it lacks whole types, so nothing overall is given" in " ".join(summary.notes)
    row = next(row for row in summary.tables()[0].rows if row[0].startswith("colours"))
    assert row[3:7] == ("-", "-", "-", "-")
    nothing = summarize([*bench(), *rows_of("late:1/9", {"colour": "11"}, first=500)])
    late = entry(nothing, "late")
    assert (late.num_common, late.accuracy, late.by_type, late.hard) == (0, None, {}, None)
    json.dumps(nothing.to_dict(), allow_nan=False)


def test_retention_is_left_out_where_the_picture_brings_nothing_sure() -> None:
    rows = [
        *rows_of("none", {"colour": "1" * 22 + "0" * 18}, tokens=200),
        *rows_of("blind", {"colour": "0" * 20 + "1" * 20}, tokens=0),
        *rows_of("good:1/9", {"colour": "1" * 21 + "0" * 19}),
    ]
    summary = summarize(rows)
    assert entry(summary, "good").retention is None
    assert "keep 1/9: no retention, as full is not above blind in every resample" in summary.notes


def test_notes_say_what_was_measured() -> None:
    notes = summarize(bench(), seed=3, resamples=500).notes
    assert "same for all settings: model mini, positions original, task world 1, weights 0123456789ab" in notes
    assert "40 questions a type of colour, place; numbers 0 to 39" in notes
    assert any("500 resamples, seed 3" in n and "not another training of the model" in n for n in notes)
    assert "keep 1/9: the hard subset has 36 questions" in notes
    other = rows_of(setting("good:1/4", positions="compact"), {"colour": "1" * N, "place": "1" * N})
    assert "different between settings: positions" in summarize([*bench(), *other]).notes


def test_order_of_rows_changes_nothing() -> None:
    rows = bench()
    random.Random(1).shuffle(rows)
    assert summarize(rows).to_dict() == summarize(bench()).to_dict()
    assert summarize(bench(), seed=1).to_dict() != summarize(bench()).to_dict()


def test_settings_of_one_method_have_names_of_their_own() -> None:
    full, keep = {"colour": "1" * N, "place": "1" * N}, {"method": "visionzip", "keep": "1/9"}
    plain = setting("visionzip:1/9")
    other = type(plain)("visionzip(merging=False):1/9", **keep, details=plain.details)
    again = type(plain)("visionzip:1/9", **keep, details=plain.details | {"seed": 1})
    two = summarize([*bench(), *rows_of(plain, full), *rows_of(other, full)])
    assert [e.name for e in section(two, "1/9").entries][-2:] == ["visionzip(merging=False):1/9", "visionzip:1/9"]
    three = summarize([*rows_of(plain, full), *rows_of(other, full), *rows_of(again, full)])
    names = {e.name for e in section(three, "1/9").entries}
    assert names == {
        "visionzip(merging=False):1/9",
        f"visionzip:1/9 #{plain.key}",
        f"visionzip:1/9 #{again.key}",
    }


def test_tables_and_markdown() -> None:
    summary = summarize(bench())
    titles = [t.title for t in summary.tables()]
    assert titles == [
        "Accuracy and time, keep 1/9",
        "Accuracy % by type, keep 1/9",
        "What the picture adds: points over blind by type, keep 1/9",
        "Points over down-sampled pictures by type, keep 1/9",
    ]
    main, types, adds, over = summary.tables()
    assert all(len(row) == len(t.heads) for t in summary.tables() for row in t.rows)
    assert main.rows[0][:3] == ("none", "200.0", "100.0")
    assert main.rows[3][8:] == ("3.00", "0.75")
    assert types.rows[3][1].startswith("80 [")
    assert [row[0] for row in adds.rows] == ["none", "downsample", "good", "poor", "twin"]
    assert [row[0] for row in over.rows] == ["none", "blind", "good", "poor", "twin"]
    for entry in summary.sections[0].entries:
        for kind, difference in entry.over_downsample.items():
            reference = next(e for e in summary.sections[0].entries if e.measured.method == "downsample")
            expected = entry.by_type[kind].value - reference.by_type[kind].value
            assert difference.value == pytest.approx(expected, abs=1e-12)
            assert difference.low <= difference.value <= difference.high
    text = summary.to_markdown()
    assert text.startswith("### Accuracy and time, keep 1/9\n\n| method | tokens | mean % |")
    assert "| --- | ---: | ---: | --- |" in text
    assert text.endswith("questions\n")
    plain = summary.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["keeps"][0]["settings"][3]["hard_subset"]["asked"] == 36
    assert Table("t", ("a", "b"), (("x | y", "1"),), (1,)).to_markdown() == (
        "### t\n\n| a | b |\n| --- | ---: |\n| x \\| y | 1 |"
    )


def test_numbers_as_text() -> None:
    assert points(Estimate(-0.032, -0.05, -0.014)) == "-3.2 [-5.0, -1.4] worse"
    assert points(Estimate(0.02, 0.01, 0.03), margin=0.015) == "+2.0 [+1.0, +3.0] ="
    assert points(Estimate(0.0001, -0.0001, 0.012)) == "0.0 [0.0, +1.2] ="
    assert percent(Estimate(0.7126, 0.691, 0.734)) == "71.3 [69.1, 73.4]"
    assert (percent(None), points(None), number(None), number(-0.01)) == ("-", "-", "-", "0.0")


def test_refused() -> None:
    with pytest.raises(InputError, match="no records to summarise"):
        summarize([])
    with pytest.raises(InputError, match="good:1/9 has two records of question colour 3"):
        summarize([*bench(), *rows_of("good:1/9", {"colour": "   1"})])
    other = rows_of(setting("good:1/4", model="other"), {"colour": "1"})
    with pytest.raises(InputError, match='settings with different model cannot be compared: "mini", "other"'):
        summarize([*bench(), *other])
    twice = rows_of(setting("none", positions="compact"), {"colour": "1"})
    with pytest.raises(InputError, match="none is there under 2 settings"):
        summarize([*bench(), *twice])
