"""The run: what is measured, that sharing and stopping change nothing, and what is refused before it starts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tessella
from tessella.app.answering import ask_many
from tessella.bench import runner
from tessella.bench.entries import read_choices, read_keeps, resolve
from tessella.bench.ledger import Ledger
from tessella.bench.pace import Pace
from tessella.bench.records import BLIND, FULL, Record
from tessella.bench.runner import Request, Work, plan_work, run_work
from tessella.core.errors import BudgetError, InputError, UnknownMethodError, UnsupportedError
from tessella.core.registry import load_class, method_modules
from tessella.mini.questions import sample

SMALL = Request("none,blind,hiprune,random,divprune:0.5 | fastv@2:0.5", "1/2,22", "digit,shape", 5, batch=2, only=True)


@pytest.fixture(scope="module")
def mini() -> tuple[Any, Any]:
    return tessella.load("mini")


def work_of(mini: tuple[Any, Any], request: Request) -> Work:
    return plan_work(*mini, "mini", request)


def measure(work: Work, path: Path, tell: Any = None) -> list[Record]:
    """Records without their times."""
    with Ledger(path) as ledger:
        run_work(work, ledger, tell)
        return [replace(r, ms={}) for _, r in ledger.rows(work.settings, work.kinds, work.numbers)]


def count_encodings(work: Work) -> list[int]:
    calls: list[int] = []
    work.model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
    return calls


# --- what is measured -----------------------------------------------------------------------------------------------


def test_pipelines_stand_at_each_keep_or_once(mini):
    work = work_of(mini, SMALL)
    assert [(s.pipeline, s.method, s.keep) for s in work.settings] == [
        ("none", "none", None),
        ("blind", "blind", None),
        ("hiprune:0.5", "hiprune", "0.5"),
        ("hiprune:22", "hiprune", "22"),
        ("random:0.5", "random", "0.5"),
        ("random:22", "random", "22"),
        ("divprune:0.5 | fastv@2:0.5", "divprune:0.5 | fastv@2:0.5", None),
    ]
    assert (work.kinds, work.numbers, work.num_answers) == (("digit", "shape"), frozenset(range(200_000, 200_005)), 70)


def test_references_are_added_and_a_stage_leaves_them(mini):
    chosen = read_choices("fastv,hiprune", read_keeps("1/2"), stage="prefill")
    assert [c.method for c in chosen][:2] == [FULL, BLIND]
    assert [c.method for c in chosen][-1] == "fastv"
    assert "hiprune" not in [c.method for c in chosen]
    alone = read_choices("fastv,none", read_keeps("1/2"), only=True)
    assert [str(c.pipeline) for c in alone] == ["fastv:0.5", "none"]


def test_several_stages_leave_what_acts_at_one_of_them(mini):
    chosen = read_choices("fastv,hiprune,downsample", read_keeps("1/2"), stage="connector, input", only=True)
    assert [c.method for c in chosen] == ["hiprune", "downsample"]


def test_all_is_the_list_without_one(mini):
    keeps = read_keeps("1/2")
    assert read_choices("all", keeps, stage="prefill") == read_choices(None, keeps, stage="prefill")


def test_without_a_list_every_registered_method_is_measured(mini):
    chosen = read_choices(None, read_keeps("1/2"))
    ids = {p.method.id for c in chosen for p in c.pipeline.parts}
    assert ids == set(method_modules())
    entries, notes = resolve(mini[0], chosen, {})
    assert len(entries) + len(notes) == len(chosen)


def test_a_setting_holds_all_that_can_change_an_answer(mini):
    work = work_of(mini, replace(SMALL, methods="hiprune", keep="1/2"))
    [setting] = work.settings
    details = setting.details
    assert details["methods"][0]["budget"] == "0.5"
    fields = details["methods"][0]["fields"]
    assert set(fields) == set(load_class("hiprune").__dataclass_fields__)
    assert all(isinstance(v, int | float | str | bool | None) for v in fields.values())
    assert {k: details[k] for k in ("model", "dtype", "device", "batch", "decoding", "split")} == {
        "model": "mini",
        "dtype": "float32",
        "device": "cpu",
        "batch": 2,
        "decoding": "greedy, at most 6 new tokens",
        "split": "test",
    }
    assert "{question}" in details["prompt"]
    assert all(len(details[name]) == 64 for name in ("weights", "model_files"))
    assert details["versions"]["tessella"] == tessella.__version__
    assert str(Path(tessella.__file__).parent) not in setting.to_json()
    other = work_of(mini, replace(SMALL, methods="hiprune(alpha=0.2)", keep="1/2", batch=3)).settings[0]
    assert other.key != setting.key
    assert json.loads(setting.to_json())["details"] == details


def test_records_say_what_the_run_did(mini, tmp_path):
    work = work_of(mini, SMALL)
    with Ledger(tmp_path / "bench.db") as ledger:
        run_work(work, ledger)
        rows = ledger.rows(work.settings, work.kinds, work.numbers)
    assert len(rows) == work.num_answers
    layers, half = work.model.config.text_config.num_hidden_layers, "divprune:0.5 | fastv@2:0.5"
    expected = {
        "none": (196, 1.0),
        "blind": (0, 0.0),
        "hiprune:0.5": (98, 0.5),
        "hiprune:22": (22, 22 / 196),
        half: (49, (2 * 0.5 + (layers - 2) * 0.25) / layers),
    }
    for setting, record in rows:
        assert record.tokens_in == 196
        if setting.pipeline in expected:
            kept, ratio = expected[setting.pipeline]
            assert (record.tokens_kept, record.mean_keep_ratio) == (kept, pytest.approx(ratio)), setting.pipeline
        drawn = sample(record.kind, record.number)
        assert (record.truth, record.score) == (drawn.answer, record.answer == drawn.answer)
        assert record.ms["encode"] > 0
        assert record.ms["prefill"] > 0
    by_pipeline = {s.pipeline: r.cache_bytes for s, r in rows if (r.kind, r.number) == ("digit", 200_000)}
    assert by_pipeline["blind"] < by_pipeline["hiprune:22"] < by_pipeline["hiprune:0.5"] < by_pipeline["none"]
    encode = {r.ms["encode"] for s, r in rows if (r.kind, r.number) in (("digit", 200_000), ("digit", 200_001))}
    assert len(encode) == 1  # one pass for all settings, shared by the batch


def test_answers_are_those_of_asking_without_sharing(mini, tmp_path):
    """Every registered method, each in a run of its own that encodes the pictures itself."""
    work = work_of(mini, Request(None, "1/9", "reading", 6, batch=6))
    answers: dict[str, list[str]] = {}
    for record in measure(work, tmp_path / "bench.db"):
        answers.setdefault(record.setting, []).append(record.answer)
    samples = [sample("reading", seed) for seed in sorted(work.numbers)]
    images, questions = [s.image for s in samples], [s.question for s in samples]
    for entry in work.entries:
        alone = ask_many(*mini, images, questions, entry.pipeline, max_new_tokens=6)
        assert answers[entry.setting.key] == alone, entry.setting.pipeline
    assert len(answers) >= len(method_modules()) - len(work.notes)


def test_pictures_are_encoded_once_a_batch(mini, tmp_path):
    work = work_of(mini, SMALL)
    calls = count_encodings(work)
    first = measure(work, tmp_path / "bench.db")
    assert len(calls) == len(work.batches) == 6
    again = measure(work, tmp_path / "bench.db")
    assert len(calls) == 6  # nothing was left to do
    assert again == first


# --- stopping and going on ------------------------------------------------------------------------------------------


class Stop(Exception):
    pass


@pytest.mark.parametrize("after", [1, 9, 20])
def test_a_run_that_was_stopped_ends_like_one_that_was_not(mini, tmp_path, after):
    work = work_of(mini, SMALL)
    whole = measure(work, tmp_path / "whole.db")
    seen: list[Any] = []

    def stop(progress: Any) -> None:
        seen.append(progress)
        if len(seen) == after:
            raise Stop

    with pytest.raises(Stop):
        measure(work, tmp_path / "parts.db", stop)
    with Ledger(tmp_path / "parts.db") as ledger:
        assert len(ledger.done(work.settings)) == seen[-1].answers
    assert measure(work, tmp_path / "parts.db", seen.append) == whole
    assert [p.answers for p in seen] == sorted({p.answers for p in seen})
    assert (seen[-1].answers, seen[-1].total, seen[-1].seconds_left) == (70, 70, 0)


def test_more_samples_later_are_as_if_asked_for_at_once(mini, tmp_path):
    few, many = work_of(mini, SMALL), work_of(mini, replace(SMALL, limit=8))
    assert [s.key for s in few.settings] == [s.key for s in many.settings]
    measure(few, tmp_path / "grown.db")
    assert measure(many, tmp_path / "grown.db") == measure(many, tmp_path / "whole.db")


def test_only_settings_that_are_missing_are_run(mini, tmp_path):
    measure(work_of(mini, replace(SMALL, methods="none,hiprune")), tmp_path / "bench.db")
    seen: list[str] = []
    measure(work_of(mini, SMALL), tmp_path / "bench.db", lambda p: seen.append(p.pipeline))
    assert set(seen) == {"blind", "random:0.5", "random:22", "divprune:0.5 | fastv@2:0.5"}
    assert len(seen) == 4 * 6


def test_the_time_left_comes_from_each_settings_own_speed():
    pace = Pace(total=8, finished=2, todo=[["slow", "quick"], ["slow", "quick"], ["slow"]])
    pace.answered("slow", 1, 10.0)
    assert pace.progress("slow", "digit").seconds_left == pytest.approx(2 * 10 + 2 * 10)  # quick: the mean
    pace.answered("quick", 1, 2.0)
    progress = pace.progress("quick", "digit")
    assert (progress.answers, progress.total) == (4, 8)
    assert progress.seconds_left == pytest.approx(2 * 10 + 1 * 2)
    pace.answered_elsewhere("slow", 1)
    assert pace.progress("slow", "digit").seconds_left == pytest.approx(1 * 10 + 1 * 2)


# --- several jobs, and parts of the work ------------------------------------------------------------------------------


def test_jobs_on_one_ledger_share_the_work_and_end_with_all_of_it(mini, tmp_path):
    work = work_of(mini, SMALL)
    whole = measure(work, tmp_path / "whole.db")
    place = tmp_path / "shared.db"
    with Ledger(place, "first") as first, Ledger(place, "second") as second:
        seen: dict[str, list[str]] = {"first": [], "second": []}

        def count_and_run_second(progress: Any) -> None:
            seen["first"].append(progress.pipeline)
            if len(seen["first"]) == 2:  # the first job has taken a batch under every setting
                with pytest.raises(Stop):
                    run_work(work, second, stop_after_five)
                second.close()

        def stop_after_five(progress: Any) -> None:
            seen["second"].append(progress.pipeline)
            if len(seen["second"]) == 5:
                raise Stop

        run_work(work, first, count_and_run_second)
        rows = [replace(r, ms={}) for _, r in first.rows(work.settings, work.kinds, work.numbers)]
    assert rows == whole
    assert (len(seen["first"]), len(seen["second"])) == (7 * 6 - 5, 5)


def test_shards_are_parts_of_the_work_that_make_it_up(mini, tmp_path):
    whole = measure(work_of(mini, SMALL), tmp_path / "whole.db")
    shards = [work_of(mini, replace(SMALL, shard=f"{n}/4")) for n in (1, 2, 3, 4)]
    assert [len(s.batches) for s in shards] == [2, 2, 1, 1]
    parts = [r for n, s in enumerate(shards) for r in measure(s, tmp_path / f"{n}.db")]
    order = {(r.setting, r.kind, r.number): n for n, r in enumerate(whole)}
    assert sorted(parts, key=lambda r: order[r.setting, r.kind, r.number]) == whole


def test_questions_without_a_picture_are_counted_and_listed(mini, tmp_path):
    work = work_of(mini, replace(SMALL, methods="none,hiprune", keep="1/2"))
    draw, gone = work.task.draw, {200_001, 200_003}
    work.task.draw = lambda kind, numbers: [a for a in draw(kind, numbers) if a.number not in gone]
    with Ledger(tmp_path / "bench.db") as ledger:
        [note] = run_work(work, ledger)
        assert len(ledger.done(work.settings)) == 2 * 2 * 3
    assert note == (
        "4 questions have no picture and were left out: digit 200001, digit 200003, shape 200001, shape 200003"
    )


# --- refused before anything runs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"methods": "hiprne"}, UnknownMethodError, "no method 'hiprne'. Closest: 'hiprune'"),
        ({"methods": "hiprune,,fastv"}, InputError, "methods must name at least one"),
        ({"methods": "hiprune,hiprune"}, InputError, "names 'hiprune:0.5' twice"),
        ({"types": "digt"}, InputError, "no question type 'digt'; .* Closest: 'digit'"),
        ({"keep": None}, BudgetError, "hiprune needs a keep"),
        ({"keep": "1/2,x"}, BudgetError, "got 'x'"),
        ({"keep": "0.5,1/2"}, InputError, "keep names 0.5 twice"),
        ({"keep": "197"}, BudgetError, "keep=197 asks for 197 visual tokens per image, but only 196 are there"),
        ({"limit": 0}, InputError, "limit must be between 1"),
        ({"batch": 0}, InputError, "batch must be at least 1"),
        ({"seed": -3}, InputError, "seed must be between 0"),
        ({"stage": "middle"}, InputError, "stage must be of input, .*, with commas between; got 'middle'"),
        ({"methods": "fastv", "stage": "connector"}, InputError, "none of the methods acts at stage 'connector'"),
        ({"methods": "fastv@99"}, UnsupportedError, "fastv@99: .*99"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_runs(mini, monkeypatch, changes, error, message):
    monkeypatch.setattr(runner, "run_work", None)
    with pytest.raises(error, match=message):
        work_of(mini, replace(SMALL, **{"methods": "hiprune", **changes}))
