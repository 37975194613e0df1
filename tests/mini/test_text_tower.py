"""The text tower of the embedded model: what it learns from, how it is trained, and what the shipped one can do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import tessella
from tessella import mini
from tessella.mini.lessons import GRID
from tessella.mini.questions import KINDS, ask
from tessella.mini.text_tower_measure import measure_pointing, measure_retrieval
from tessella.mini.text_tower_texts import (
    describe,
    draw_scene_of,
    list_items,
    name_of,
    patches_of,
    point_at,
    spoken_of,
)
from tessella.mini.text_tower_training import Trainer, match, parse, point, save
from tessella.mini.world import PATCH, Scene, Spec, draw_scene
from tessella.models.clip_tower import ClipTower

ENCODER = "a5bad03bbda0b1f82314227c927fbf5167731533953affd984818bcc41596398"
RECORD = Path(__file__).parents[2] / "benchmarks" / "text_tower.json"


@pytest.fixture(scope="module")
def encoder() -> Any:
    return AutoModelForImageTextToText.from_pretrained(mini.path(), dtype=torch.float32).model.vision_tower.eval()


@pytest.fixture(scope="module")
def tower() -> ClipTower:
    return tessella.load_text_tower("mini", device="cpu")


def scene() -> Scene:
    specs = [
        Spec("shape", "red", shape="star", spot=(16, 16, 16, 16)),
        Spec("shape", "blue", shape="star", spot=(80, 80, 16, 16)),
        Spec("shape", "red", shape="cross", spot=(16, 16, 80, 80)),
        Spec("digit", "orange", text="7", spot=(80, 80, 80, 80)),
    ]
    drawn = draw_scene(Random(0), specs)
    assert drawn is not None
    return drawn


# -- what it learns from ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, items",
    [
        ("what color is the cross?", [2]),
        ("where is the red star?", [0]),
        ("where is the red star relative to the orange digit?", [0, 3]),
        ("how many stars are there?", [0, 1]),
        ("how many crosses are there?", [2]),
        ("how many red objects are there?", [0, 2]),
        ("what shape is the blue object?", [1]),
        ("is there a blue cross?", []),
        ("what digit is shown?", [3]),
        ("what is the orange digit?", [3]),
        ("what word is written?", []),
    ],
)
def test_a_question_speaks_of_what_it_names(text: str, items: list[int]) -> None:
    drawn = scene().items
    assert [drawn.index(item) for item in spoken_of(text, drawn)] == items


def test_every_kind_of_question_speaks_of_something_or_denies_it() -> None:
    rng, seen = Random(1), set()
    for number in range(60):
        drawn = draw_scene_of(0, number, "train")
        for kind in KINDS:
            question = ask(drawn, kind, rng)
            if question is not None:
                assert bool(spoken_of(question.text, drawn.items)) == (question.answer != "no"), question
                seen.add(kind)
    assert seen == set(KINDS)


def test_names_and_lists_say_what_is_there() -> None:
    items = scene().items
    assert [name_of(i) for i in items] == ["a red star", "a blue star", "a red cross", "an orange digit 7"]
    assert sorted(list_items(scene(), Random(0)).split(", ")) == sorted(name_of(i) for i in items)
    texts = [describe(scene(), Random(n)) for n in range(300)]
    facts = [t for t in texts if "?" in t]
    assert 0.3 < len(facts) / len(texts) < 0.5
    assert "what color is the cross? red" in facts


def test_patches_are_those_that_an_object_covers() -> None:
    items = scene().items
    for item in items:
        left, top, right, bottom = item.box
        places = patches_of([item]).reshape(GRID, GRID).nonzero()
        assert places[0].min() >= top // PATCH
        assert places[0].max() <= (bottom - 1) // PATCH
        assert places[1].min() >= left // PATCH
        assert places[1].max() <= (right - 1) // PATCH
        assert patches_of([item]).reshape(GRID, GRID)[int(item.centre[1]) // PATCH, int(item.centre[0]) // PATCH]
    both = patches_of(items[:2])
    assert (both == patches_of(items[:1]) | patches_of(items[1:2])).all()
    assert not patches_of([]).any()


def test_a_text_about_patches_comes_with_some() -> None:
    rng = Random(2)
    for number in range(50):
        text, where = point_at(draw_scene_of(0, number, "train"), rng)
        assert text
        assert where.shape == (GRID * GRID,)
        assert 0 < where.sum() < GRID * GRID / 2


# -- training --------------------------------------------------------------------------------------------------------


def trainer(*more: str) -> Trainer:
    return Trainer(parse(["--steps", "5", "--batch", "6", "--fresh", "8", "--window", "16", *more]))


def test_a_run_from_a_checkpoint_equals_a_run_without_a_break(tmp_path: Path) -> None:
    whole, first, second = trainer(), trainer(), trainer()
    losses = [whole.update() for _ in range(3)]
    assert set(losses[0]) == {"pictures", "patches", "norm"}
    for _ in range(2):
        first.update()
    first.seconds = 7.0
    first.save_checkpoint(tmp_path / "checkpoint.pt")
    second.load_checkpoint(tmp_path / "checkpoint.pt")
    assert (second.step, second.seconds) == (2, 7.0)
    assert second.update() == losses[2]
    for ours, theirs in zip(whole.weights, second.weights, strict=True):
        assert torch.equal(ours, theirs)
    assert [f.name for f in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_the_window_holds_the_newest_pictures_and_the_encoder_stays() -> None:
    learner = trainer()
    before = [p.clone() for p in learner.window.encoder.parameters()]
    for _ in range(3):
        learner.update()
    assert learner.window.end == 16 + 2 * 8
    for place, held in enumerate(learner.window.scenes):
        expected = draw_scene_of(0, 16 + place, "train")
        assert held is not None
        assert (held.pixels == expected.pixels).all()
    after = learner.window.encoder.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    learner, rates = trainer("--steps", "400"), []
    for learner.step in range(400):
        rates.append(learner.set_rate())
    assert rates.index(max(rates)) in range(80, 110)
    assert rates[0] < 0.02 * max(rates)
    assert rates[-1] < 1e-3 * max(rates)


def test_losses_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    rows, columns = logits.log_softmax(dim=1), logits.log_softmax(dim=0)
    assert match(logits) == pytest.approx(float(-(rows.diagonal().mean() + columns.diagonal().mean()) / 2))
    where = torch.tensor([[True, False, True]])
    values = torch.tensor([[1.0, 2.0, 3.0]])
    assert point(values, where) == pytest.approx(float(-values.log_softmax(dim=1)[0, [0, 2]].mean()))


def test_what_training_saves_is_loaded_without_a_vision_encoder(tmp_path: Path) -> None:
    learner = trainer()
    save(learner.tower, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {name.split(".")[0] for name in tensors} == {"text_model", "text_projection", "visual_projection"}
    again = tessella.load_text_tower(tmp_path, device="cpu").state_dict()
    for name, weight in learner.tower.state_dict().items():
        assert torch.equal(again[name], weight.to(torch.bfloat16).float()), name


# -- the shipped tower -----------------------------------------------------------------------------------------------


def test_the_encoder_is_the_one_that_the_tower_was_trained_for() -> None:
    digest = hashlib.sha256()
    with safe_open(mini.path() / "model.safetensors", "pt") as weights:
        for name in sorted(name for name in weights.keys() if "vision_tower" in name):  # noqa: SIM118
            digest.update(name.encode())
            digest.update(weights.get_tensor(name).view(torch.uint8).numpy().tobytes())
    assert digest.hexdigest() == ENCODER


def test_the_folder_is_small_and_needs_no_training_code(tower: ClipTower) -> None:
    files = {f.name: f.stat().st_size for f in mini.text_tower_path().iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "training_log.jsonl"} <= set(files)
    assert sum(files.values()) < 1_000_000
    ids = tower.tokens(["what color is the star?", "what is it? " * 40])
    assert ids.shape == (2, 40)
    assert ids[0, -1] == ids[1, -1] == tower.tokenizer.eos_token_id
    assert not torch.equal(*tower.of_texts(["where is the star?", "where is the ring?"]))


def test_it_finds_pictures_by_their_lists_and_what_a_question_speaks_of(tower: ClipTower, encoder: Any) -> None:
    """On other pictures than the record; a little below its numbers, for the noise of so few."""
    record = json.loads(RECORD.read_text())
    retrieval = measure_retrieval(tower, encoder, 1, seed=2)
    for name in ("list of a picture", "picture of a list"):
        assert retrieval[name] > record["retrieval"][name] - 0.15 > 10 / 64, name
    for kind, row in measure_pointing(tower, encoder, 40, seed=2).items():
        recorded = record["pointing"][kind]
        for name in ("first", "all"):
            assert row[name] > recorded[name] - 0.15 > 3 * recorded["chance"], (kind, name)


def test_runs_on_the_loaded_model_find_the_tower_by_themselves(tower: ClipTower) -> None:
    model, processor = tessella.load("mini", device="cpu")
    assert tessella.engine.companions.companions_of(model).tokenizer is processor.tokenizer
    load = tessella.engine.companions.companions_of(model).load_tower
    assert load is not None
    assert load() is load()
    assert torch.equal(load().of_texts(["a red star"]), tower.of_texts(["a red star"]))
