"""What the page is made of: boards, commands, frontiers, curves and exhibits, and its text without a browser."""

from __future__ import annotations

import re

import pytest
from synthetic import rows_of, setting
from wide_bench import HOSTILE

from tessella.bench.embedded import SEED_OFFSET, SEED_STRIDE
from tessella.bench.report.boards import read_boards
from tessella.bench.report.columns import leaderboard
from tessella.bench.report.commands import commands_of
from tessella.bench.report.frontier import frontier, points_of, times_of
from tessella.bench.report.gallery import Gallery, find_disagreements
from tessella.bench.report.multiples import curves_of
from tessella.bench.report.page import describe_runs, report_page
from tessella.bench.summary import collect
from tessella.core.errors import InputError


def test_the_page_stands_alone_and_works_without_scripts(page):
    text = re.sub(r"base64,[^\"]+", "", page.read_text(encoding="utf-8"))
    assert re.findall(r"https?:", text) == []
    assert re.findall(r'(?:src|href)="(?!data:image/(?:webp|png);|#)[^"]*"', text) == []
    assert "<img src=x" not in text
    assert "&lt;img src=x onerror=" in text
    body = text[: text.index("<script>")]
    assert body.count("<tbody>") > 10
    assert "method_19" in body
    assert "No pictures: &lt;img" in body
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(re.findall(r'id="([^"]+)"', text))


def test_lines_are_references_then_keeps_from_the_best_on(small_bench):
    [board] = read_boards(small_bench, resamples=200)
    names = [(line.measured.method, line.measured.setting.keep) for line in board.lines]
    assert names == [
        ("none", None),
        ("blind", None),
        *((m, "1/4") for m in ("good", "fair", "downsample", "poor")),
        *((m, "1/9") for m in ("good", "fair", "downsample", "poor")),
    ]
    rows = leaderboard(board.lines, board.title).rows
    assert [row[0] for row in rows] == [name for name, _ in names]
    assert rows[2][:2] == ("good", "1/4")
    assert rows[2][2].startswith("87.5 [")
    assert rows[2][3:5] == ("50.0", "25.0")
    assert rows[2][5:7] == ("0.75", "6.75")  # score + select; with encode 3 and the median prefill 3
    assert board.lines[2].milliseconds == {"choose": 0.75, "first token": 6.75, "all": 10.75}
    assert board.to_dict()["commands"].keys() == {line.measured.setting.key for line in board.lines}


def test_tasks_and_models_are_boards_of_their_own(small_bench):
    other = [
        *rows_of(setting("none", task="pope 1"), {"a": "11"}, 200),
        *rows_of(setting("x", task="pope 1"), {"a": "10"}),
    ]
    third = rows_of(setting("none", weights="f" * 64), {"colour": "11"}, 200)
    boards = read_boards([*small_bench, *other, *third], resamples=100)
    assert [board.title[:25] for board in boards] == [
        "world 1, mini, 0123456789",
        "pope 1, mini, 0123456789a",
        "world 1, mini, ffffffffff",
    ]
    assert [len(board.lines) for board in boards] == [10, 2, 1]
    with pytest.raises(InputError, match="the ledger holds no records yet"):
        read_boards([])


def test_a_ledger_without_references_is_shown_and_says_so():
    [board] = read_boards(rows_of("good:1/4", {"colour": "1110"}), resamples=100)
    text = report_page("x", [board], [Gallery(left_out="none")])
    assert "was not measured; nothing is compared with it" in text
    assert '<td class="number" data-value="0.75">75.0 [' in text
    assert "Accuracy against time" not in text  # of one setting there is no frontier


def test_commands_name_all_that_a_key_depends_on():
    details = {"model": "mini", "task": "mini world 1", "batch": 50, "dtype": "float32", "device": "cpu"}
    this = setting("visionzip(merging=False):1/9")
    this = type(this)(this.pipeline, "visionzip(merging=False)", "1/9", details)
    first = SEED_OFFSET + 2 * SEED_STRIDE
    rows = [
        *rows_of(this, {"digit": "1101"}, first=SEED_OFFSET),
        *rows_of(this, {"digit": "11", "colour": "1"}, first=first),
    ]
    shared = "--model mini --dtype float32 --device cpu --batch 50 --out bench.db"
    start = "tessella bench --methods 'visionzip(merging=False)' --keep 1/9 --only --task mini"
    assert commands_of(collect(rows)[0]) == [
        f"{start} --types digit --limit 4 {shared}",
        f"{start} --types colour,digit --limit 2 --seed 2 {shared}",
    ]
    own = type(this)("a:1/2 | b:0.5", "a:1/2 | b:0.5", None, {"task": "pope 2", "model": "llava"})
    [command] = commands_of(collect(rows_of(own, {"random": "101"}))[0])
    start = "tessella bench --methods 'a:1/2 | b:0.5' --only --task pope"
    assert command == f"{start} --types random --limit 3 --model llava --out bench.db"


def test_the_frontier_is_what_nothing_faster_beats(small_bench):
    [board] = read_boards(small_bench, resamples=100)
    points = points_of(board, times_of(board)["milliseconds to the whole answer"])
    assert len(points) == 10
    assert {p.ms for p in points} == {10.75}
    times = [4.0, 1.0, 2.0, 3.0, 2.0]
    made = [
        type(p)(p.line, ms, accuracy) for p, ms, accuracy in zip(points, times, [0.9, 0.5, 0.4, 0.7, 0.6], strict=False)
    ]
    assert [(p.ms, p.accuracy) for p in frontier(made)] == [(1.0, 0.5), (2.0, 0.6), (3.0, 0.7), (4.0, 0.9)]


def test_timing_passes_are_tables_and_charts_of_their_own(small_bench):
    keys = {s.pipeline: s.key for s, _ in small_bench}

    def told(ms: float, from_pixels: bool = False) -> dict[str, object]:
        times = {f"{part}_ms": {"median": ms, "p95": 2 * ms} for part in ("prefill", "choose", "decode")}
        counts = {"oracle_ratio": 0.9, "flops": 5e9, "cache_bytes": 2048, "peak_bytes": None, "joules": None}
        return {"repeats": 30, "from_pixels": from_pixels, **times, **counts}

    timings = {
        (keys["none"], 8): told(40.0),
        (keys["none"], 1): told(10.0),
        (keys["good:1/4"], 1): told(4.0),
        (keys["downsample:1/4"], 1): told(1.0, from_pixels=True),
        ("another ledger's", 1): told(3.0),
    }
    [board] = read_boards(small_bench, timings, resamples=50)
    assert [t.title for t in board.times()] == [f"Time and memory of a batch of {n}, 30 repeats" for n in (1, 8)]
    times = times_of(board)
    assert times["milliseconds to read a batch of 1, timed apart"] == {keys["none"]: 10.0, keys["good:1/4"]: 4.0}
    assert [p.name for p in points_of(board, times["milliseconds to read a batch of 8, timed apart"])] == ["none"]
    text = report_page("x", [board], [Gallery(left_out="none")])
    assert "milliseconds to read a batch of 1, timed apart</text>" in text
    assert "batch of 8, timed apart" not in text  # one setting alone makes no frontier
    assert "<td>8.00</td>" in text  # the 95th percentile
    assert [(t["batch"], t["repeats"]) for t in board.to_dict()["timings"]] == [(8, 30), (1, 30), (1, 30), (1, 30)]


def test_the_machine_is_named_once():
    facts = {"commit": "0123456789abcdef", "clean": True, "system": "Linux 6", "machine": "x86_64", "cores": 2}
    facts |= {"threads": 1, "accelerators": []}
    other = facts | {"clean": False, "accelerators": ["Some <GPU>"]}
    assert describe_runs([facts, facts, other]) == (
        " Measured by 0123456789 on Linux 6, x86_64, 2 cores, 1 threads, no accelerator; "
        "0123456789 with changes on Linux 6, x86_64, 2 cores, 1 threads, Some <GPU>."
    )
    assert describe_runs([]) == ""


def test_a_curve_has_a_line_for_each_keep(small_bench):
    [board] = read_boards(small_bench, resamples=100)
    curves = {curve.name: curve for curve in curves_of(board)}
    assert list(curves) == ["downsample", "fair", "good", "poor"]
    assert [line.measured.setting.keep for _, line in sorted(curves["good"].lines.items())] == ["1/4", "1/9"]
    assert curves["good"].accuracy() == (2, pytest.approx((35 / 40 + 31 / 40) / 2))


def test_exhibits_are_even_splits_that_the_full_model_answers(board):
    found = find_disagreements(board, 8)
    assert len({d.question for d in found}) == 8
    assert [d.question[0] for d in found[:4]] == list(board.summary.kinds)
    assert len({d.section.keep for d in found}) == 4
    for d in found:
        rights = [m.records[d.question].score for m in d.shown]
        assert rights == [1.0, 1.0, 0.0, 0.0]
        assert d.num_asked == 20
        assert 5 <= d.num_right <= 15
        assert d.full is not None
        assert d.full.score == 1.0
    assert find_disagreements(board, 0) == []
    assert HOSTILE in found[0].full.answer


def test_what_the_full_model_answers_is_shown_first():
    rows = [
        *rows_of("none", {"colour": "010"}, 200),
        *rows_of("a:1/4", {"colour": "101"}),
        *rows_of("b:1/4", {"colour": "010"}),
    ]
    [board] = read_boards(rows, resamples=50)
    assert [d.question[1] for d in find_disagreements(board, 9)] == [1, 0, 2]


def test_methods_that_agree_are_no_exhibit():
    same = {"colour": "1100"}
    rows = [*rows_of("none", same, 200), *rows_of("a:1/4", same), *rows_of("b:1/4", same)]
    [board] = read_boards(rows, resamples=50)
    assert find_disagreements(board, 5) == []
