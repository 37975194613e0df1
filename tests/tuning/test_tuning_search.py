"""A whole search on the embedded model: what it finds, that it repeats itself, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import sys
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tessella
from tessella.app.answering import ask
from tessella.bench.ledger import read_ledger
from tessella.calibration.recipes import save_recipe
from tessella.core.errors import InputError
from tessella.core.pipeline import parse
from tessella.samples import load_samples
from tessella.tuning import asking, judging, result
from tessella.tuning.goal import Goal
from tessella.tuning.result import Result
from tessella.tuning.tune import tune

METHODS = ("compose", "fastv", "fopru", "holov")
LIMIT, THIRD = Goal(lose=0.3), Goal(keep=Fraction(1, 3))


def run(ledger: Path, goal: Goal, trials: int = 5, **options: Any) -> Result:
    model, processor = tessella.load("mini")
    samples = load_samples("mini:40")
    return tune(model, processor, samples, goal, ledger, methods=METHODS, trials=trials, rounds=1, **options)


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tuning") / "tuned.db"


@pytest.fixture(scope="module")
def found(ledger: Path) -> Result:
    return run(ledger, LIMIT)


def untimed(result: Result) -> dict[str, Any]:
    out = result.to_dict()
    for row in out["held_out"]["rows"]:
        del row["latency"]
    return {name: value for name, value in out.items() if name != "words"}


def test_it_finds_the_cheapest_that_loses_at_most_the_limit(found: Result) -> None:
    finished = found.search.finished
    assert len(found.search.trials) == 5
    assert found.chosen.loss <= 0.3
    assert found.chosen.cost == min(t.cost for t in finished if t.loss <= 0.3) < 1
    assert all(len(t.right) == 20 for t in finished)


def test_it_is_judged_on_questions_that_it_has_not_seen(found: Result, ledger: Path) -> None:
    """The numbers of the table are those of the ledger's records."""
    pipeline = str(found.chosen.pipeline)
    rows = [record for setting, record in read_ledger(ledger) if setting.pipeline == pipeline]
    full = {r.number: r.score for setting, r in read_ledger(ledger) if setting.pipeline == "none"}
    searched, held_out = rows[:20], rows[20:]
    assert len({r.number for r in searched} | {r.number for r in held_out}) == 40
    assert found.row.cost == pytest.approx(np.mean([r.mean_keep_ratio for r in held_out]))
    by_kind: dict[str, list[float]] = {}
    for r in held_out:
        by_kind.setdefault(r.kind, []).append(full[r.number] - r.score)
    assert found.row.lost is not None
    assert found.row.lost.value == pytest.approx(np.mean([np.mean(v) for v in by_kind.values()]))
    assert found.row.lost.low <= found.row.lost.value <= found.row.lost.high


def test_every_published_method_is_there_at_the_same_cost(found: Result) -> None:
    rivals = {row.pipeline.partition(":")[0].partition("@")[0] for row in found.rows if row.is_rival}
    assert {"fopru", "holov"} <= rivals <= {"fopru", "holov", "fastv"}
    assert all(row.cost == pytest.approx(found.chosen.cost, abs=0.01) for row in found.rows if row.is_rival)
    assert [row.role for row in found.rows[:2]] == ["full", "chosen"]
    assert all(row.latency is not None and row.latency.median > 0 for row in found.rows if row.role != "alone")


def test_a_published_method_that_costs_more_is_no_rival() -> None:
    def costing(cost: float, role: str) -> Any:
        record = SimpleNamespace(mean_keep_ratio=cost)
        return judging.Candidate(parse("none"), role, None, records=(record, record))  # type: ignore[arg-type]

    there = [costing(1.0, "full"), costing(0.2, "chosen"), costing(0.2, "alone"), costing(0.21, "alone")]
    assert judging._affordable(there, 0.2) == there[:3]


def test_the_same_seed_finds_the_same_and_asks_nothing_twice(
    found: Result, ledger: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answer = asking.answer_batch

    def counted(*args: Any) -> Any:
        records = answer(*args)
        asked.append(args[-1].setting.pipeline)
        return records

    monkeypatch.setattr(asking, "answer_batch", counted)
    assert untimed(run(ledger, LIMIT)) == untimed(found)
    assert asked == []


def test_the_recipe_gives_the_same_tokens_wherever_it_is_taken(found: Result, tmp_path: Path) -> None:
    assert found.recipe is not None
    assert found.recipe.options["goal"] == "the cheapest that loses at most 30 points"
    assert found.recipe.evidence["pipeline"] == str(found.chosen.pipeline)
    file = str(save_recipe(found.recipe, tmp_path / "tuned.json").source)
    model, processor = tessella.load("mini")
    sample = load_samples("mini:1")[0]
    inputs = processor(text=[processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.question}]}],
        add_generation_prompt=True, tokenize=False)], images=[list(sample.images)], return_tensors="pt")  # fmt: skip
    kept = []
    for pipeline in (found.chosen.pipeline, file, found.recipe):
        with tessella.reduce(model, pipeline) as one, torch.no_grad():
            logits = model(**inputs).logits
        kept.append((one.kept[0][0].tolist(), logits[0, -1]))
    assert len(kept[0][0]) < 196
    assert [k for k, _ in kept] == [kept[0][0]] * 3
    assert all(torch.equal(values, kept[0][1]) for _, values in kept)
    assert ask(model, processor, sample.images, sample.question, file).kept == (tuple(kept[0][0]),)


def test_at_a_keep_all_cost_the_same_and_the_best_is_taken(ledger: Path) -> None:
    at_third = run(ledger, THIRD, trials=3)
    allowed = [t for t in at_third.search.finished if t.cost <= 1 / 3 + 0.5 / 196 + 1e-9]
    assert at_third.chosen.loss == min(t.loss for t in allowed)
    assert at_third.recipe is not None
    assert all(abs(t.cost - 1 / 3) < 0.02 for t in at_third.search.finished)


def test_where_nothing_keeps_to_the_limit_it_names_the_nearest(found: Result) -> None:
    nothing = dataclasses.replace(found, goal=Goal(lose=-0.5))
    assert nothing.to_dict()["kept_to_the_limit"] is False
    assert nothing.words()[0].startswith(f"nothing loses at most -50 points; the nearest is {found.chosen.pipeline} (")
    assert nothing.words()[1].endswith("which is more than the limit.")


def test_an_interrupt_keeps_the_best_so_far(ledger: Path) -> None:
    def stop_at(number: int) -> Any:
        def advance(done: int, of: int) -> None:
            if done == number:
                raise KeyboardInterrupt

        return advance

    stopped = run(ledger, LIMIT, advance=stop_at(3))
    assert len(stopped.search.trials) == 3
    assert "the search was stopped after 3 of 5 trials." in stopped.words()
    assert stopped.recipe is not None
    assert (stopped.recipe.evidence["trials"], stopped.recipe.evidence["trials_wanted"]) == (3, 5)


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"tuning needs optuna, .*: pip install 'tessella\[tune\]'"):
        run(tmp_path / "x.db", LIMIT)


def test_numbers_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trials must be at least 1; got 0"):
        run(tmp_path / "x.db", LIMIT, trials=0)
    with pytest.raises(InputError, match="batch must be at least 1 sample; got 0"):
        run(tmp_path / "x.db", LIMIT, batch=0)


def test_words_about_losses_and_rivals(found: Result) -> None:
    words = found.words()
    assert words[0].startswith(f"the cheapest that loses at most 30 points: {found.chosen.pipeline} (")
    assert words[1].startswith("held out: it loses ")
    assert any("published method" in line for line in words[2:])
    assert result._interval(-0.0123, -0.05, 0.026) == "-1.2 [-5.0, 2.6]"
