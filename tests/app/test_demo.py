"""The demo: bundled pictures are what their list says, and its scores are exact matches."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tessella
from tessella.app import demo
from tessella.mini.questions import KINDS, sample


def test_the_bundled_pictures_are_the_ones_that_their_seeds_draw(tmp_path):
    demo.draw_bundled(tmp_path)
    folder = Path(tessella.__file__).parent / "mini" / "pictures"
    fresh, shipped = (json.loads((f / "pictures.json").read_text()) for f in (tmp_path, folder))
    assert shipped == fresh
    for entry in shipped["pictures"]:
        a, b = (np.asarray(Image.open(f / entry["file"]).convert("RGB"), int) for f in (tmp_path, folder))
        assert a.shape == (112, 112, 3)
        assert np.abs(a - b).mean() < 2  # letters may be set a little differently by another Pillow


def test_bundled_examples_have_their_right_answers():
    examples = demo.bundled()
    assert [e.kind for e in examples] == list(demo.BUNDLED_KINDS)
    for example in examples:
        drawn = sample(example.kind, demo.PICTURE_SEED, split="test")
        assert (example.question, example.answer) == (drawn.question, drawn.answer)


def test_scores_count_exact_matches_of_the_same_questions(monkeypatch):
    calls = []

    def answers(model, processor, images, questions, pipeline, keep, **_):
        calls.append((pipeline, keep, tuple(questions)))
        drawn = [sample(kind, seed) for kind in KINDS for seed in range(50, 56)]
        truth = {s.image.tobytes(): s.answer for s in drawn}
        return [truth[image.tobytes()] if keep is None else "no such answer" for image in images]

    monkeypatch.setattr(demo, "ask_many", answers)
    full, part = demo.score_settings(None, None, [("none", None), ("hiprune", "1/9")], 6, first_seed=50)
    assert (full.pipeline, part.pipeline) == ("none", "hiprune:1/9")
    assert full.asked == part.asked == dict.fromkeys(KINDS, 6)
    assert (part.share, part.right) == (0, dict.fromkeys(KINDS, 0))
    assert full.share == 1
    assert [c[2] for c in calls[::2]] == [c[2] for c in calls[1::2]]


def test_scoring_stops_when_its_time_is_over(monkeypatch):
    monkeypatch.setattr(demo, "ask_many", lambda model, processor, images, *_, **__: [""] * len(images))
    (score,) = demo.score_settings(None, None, [("none", None)], 1000, seconds=0)
    assert sum(score.asked.values()) == demo.BATCH


@pytest.mark.parametrize("name", demo.RIVALS)
def test_every_rival_is_a_registered_method(name):
    assert tessella.make(name).id == name
