"""The benchmarks of the server: arithmetic of their records, and small runs of the scripts on real servers."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from transformers import AutoProcessor

import tessella

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    """The scripts import each other by name, as they do when they are run."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield
    finally:
        sys.path.remove(str(FOLDER))


def test_rates_and_times_are_of_all_phases(scripts: None) -> None:
    serving, load = importlib.import_module("serving"), importlib.import_module("serving_load")
    answers = [load.Answered(first_s=0.1 * n, token_s=0.01 * n, tokens=4, visual_tokens_kept=22) for n in range(1, 21)]
    summary = serving.summarise([load.Phase(answers[:15], 3.0), load.Phase(answers[15:], 2.0)])
    assert (summary["requests"], summary["visual_tokens_kept"]) == (20, 22)
    assert (summary["requests_per_s"], summary["tokens_per_s"]) == (4.0, 16.0)
    assert summary["first_ms_p50"] == pytest.approx(1100)
    assert summary["first_ms_p95"] == pytest.approx(2000)
    assert summary["token_ms_p50"] == pytest.approx(110)


def test_the_goal_is_of_the_half_billion_shape_at_32_clients(scripts: None) -> None:
    serving = importlib.import_module("serving")
    rows = [{"clients": c, "pictures": p, "times": t} for c, p, t in ((8, "new", 9), (32, "new", 1.6), (32, "one", 9))]
    small = {"name": serving.SMALL.name, "rows": rows}
    assert serving.goal_of([{"name": "embedded model", "rows": rows}]) is None
    assert serving.goal_of([small]) == {"times": 1.6, "goal": 1.5, "met": True}
    rows[1]["times"] = 1.4
    assert serving.goal_of([small])["met"] is False


@pytest.mark.parametrize("name", ["mini", "small"])
def test_endless_models_write_on_behind_prompts_of_the_right_length(scripts: None, tmp_path: Path, name: str) -> None:
    endless, serving = importlib.import_module("endless"), importlib.import_module("serving")
    shapes = importlib.import_module("shapes")
    folder = tmp_path / name
    endless.write_mini(folder) if name == "mini" else endless.write_shape(folder, shapes.TINY)
    model, processor = tessella.load(folder, device="cpu")
    text = serving.write_text(AutoProcessor.from_pretrained(folder), serving.WORDS[name], 64)
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}
    written = serving.write_turns(processor, [turn])
    picture = Image.new("RGB", (56, 56))
    inputs = processor(text=[written], images=[picture], return_tensors="pt", add_special_tokens=False)
    length = inputs["input_ids"].shape[1]
    assert length == 64 + {"mini": 196, "small": 16}[name]
    assert model.generate(**inputs, max_new_tokens=24, do_sample=False).shape == (1, length + 24)


def test_each_seed_is_a_picture_of_its_own(scripts: None) -> None:
    draw = importlib.import_module("serving_load").draw_picture
    assert len({draw(seed, 56) for seed in range(20)}) == 20
    assert draw(3, 56) == draw(3, 56)


def test_memory_is_judged_by_its_growth_and_its_slope(scripts: None) -> None:
    judge = importlib.import_module("serving_memory").judge
    flat = [(100 * n, 500_000_000 if n > 4 else 400_000_000) for n in range(1, 51)]
    told = judge(flat)
    assert (told["after_a_tenth_mb"], told["most_after_mb"]) == (500, 500)
    assert told["goals_met"] == {"growth": True, "slope": True}
    leaking = judge([(done, size + done * 10_000) for done, size in flat])
    assert leaking["mb_per_1000_requests"] == pytest.approx(10)
    assert leaking["growth"] == pytest.approx(550 / 505 - 1)
    assert leaking["goals_met"] == {"growth": False, "slope": False}


@pytest.mark.slow
def test_a_quick_run_measures_both_models(scripts: None, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    assert importlib.import_module("serving").main(["--quick", "--device", "cpu", "--out", str(path)]) == 0
    record = json.loads(path.read_text())
    assert [model["name"] for model in record["models"]] == ["embedded model", "tiny"]
    for model, kept in zip(record["models"], ({"full": 196, "1/9": 22}, {"full": 16, "1/9": 2}), strict=True):
        assert [(row["clients"], row["pictures"]) for row in model["rows"]] == [
            (1, "new"), (2, "new"), (1, "one"), (2, "one"),
        ]  # fmt: skip
        for row in model["rows"]:
            assert {name: s["visual_tokens_kept"] for name, s in row["settings"].items()} == kept
            rates = {name: s["requests_per_s"] for name, s in row["settings"].items()}
            assert row["times"] == pytest.approx(rates["1/9"] / rates["full"])
            for name, summary in row["settings"].items():
                assert summary["requests"] == row["clients"]
                assert summary["requests_per_s"] == pytest.approx(row["clients"] / sum(row["seconds"][name]))
    assert record["goal"] is None
    assert record["plan"]["text_tokens"] == 64


@pytest.mark.slow
def test_a_short_run_asks_for_everything_and_counts_it(scripts: None, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    memory = importlib.import_module("serving_memory")
    assert memory.main(["--requests", "100", "--out", str(path)]) == 0
    record = json.loads(path.read_text())
    assert sum(record["outcomes"].values()) == 100
    assert {outcome.partition(":")[0] for outcome in record["outcomes"]} == set(memory.KINDS)
    assert [done for done, _ in record["samples"]] == list(range(2, 101, 2))
    assert all(10_000_000 < size < 4_000_000_000 for _, size in record["samples"])
    assert record["exit_code"] == 0
