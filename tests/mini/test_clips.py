"""Clips: one thing moves as asked, another changes its colour once, all else stands still."""

from collections import Counter
from itertools import pairwise
from random import Random

import numpy as np
import pytest

from tessella.mini.clips import CLIP_ANSWERS, CLIP_KINDS, DIRECTIONS, NUM_FRAMES, draw_clip, sample_clip
from tessella.mini.world import GAP, SIDE


def _noun(text: str) -> str:
    return text[:-1].split()[-2]


def test_the_mover_goes_the_way_of_the_answer_at_a_steady_pace() -> None:
    rng = Random(1)
    for _ in range(60):
        clip = draw_clip("motion", rng, "test")
        question = clip.questions[0]
        items = [next(i for i in scene.items if i.noun == _noun(question.text)) for scene in clip.scenes]
        x, y = np.diff([item.centre for item in items], axis=0).T
        across, down = DIRECTIONS[question.answer]
        along, aside = (x * across, y) if across else (y * down, x)
        assert (aside == 0).all()
        assert along.min() >= 7
        assert along.max() - along.min() <= 1
        assert 36 <= along.sum() <= 56
        assert len({item.colour for item in items}) == 1


def test_the_changer_stays_and_changes_once_into_the_answer() -> None:
    rng = Random(2)
    for _ in range(60):
        clip = draw_clip("change", rng, "test")
        question = clip.questions[0]
        items = [next(i for i in scene.items if i.noun == _noun(question.text)) for scene in clip.scenes]
        colours = [item.colour for item in items]
        assert len({item.box for item in items}) == 1
        assert colours[-1] == question.answer != colours[0]
        assert sum(a != b for a, b in pairwise(colours)) == 1


def test_all_else_stands_still_pixel_for_pixel() -> None:
    rng = Random(3)
    for _ in range(20):
        clip = draw_clip("motion", rng, "test")
        actors = {_noun(question.text) for question in clip.questions}
        assert len(actors) == 2
        still = np.ones((SIDE, SIDE), bool)
        for scene in clip.scenes:
            assert len({item.noun for item in scene.items}) == len(scene.items)
            for item in scene.items:
                if item.noun in actors:
                    left, top, right, bottom = item.box
                    still[top:bottom, left:right] = False
        first = clip.scenes[0].pixels
        assert still.mean() > 0.6
        assert all((scene.pixels == first)[still].all() for scene in clip.scenes)


def test_objects_never_touch_on_their_way() -> None:
    rng = Random(4)
    for _ in range(40):
        for scene in draw_clip("motion", rng, "test").scenes:
            for index, item in enumerate(scene.items):
                left, top, right, bottom = item.box
                assert 1 <= left < right < SIDE
                assert 1 <= top < bottom < SIDE
                for a, b, c, d in (other.box for other in scene.items[:index]):
                    assert left >= c + GAP or a >= right + GAP or top >= d + GAP or b >= bottom + GAP


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_answers_are_uniform_and_words_do_not_betray_them(kind: str) -> None:
    rng, total = Random(f"uniform/{kind}"), 400
    questions = [draw_clip(kind, rng, "test", 4).questions[0] for _ in range(total)]
    share = 1 / len(CLIP_ANSWERS[kind])
    for noun in (None, *{_noun(question.text) for question in questions}):
        answers = Counter(q.answer for q in questions if noun in (None, _noun(q.text)))
        number = sum(answers.values())
        assert max(answers.values()) / number < share + 4 * np.sqrt(share * (1 - share) / number), noun
    assert {question.answer for question in questions} == set(CLIP_ANSWERS[kind])


def test_samples_depend_on_their_arguments_only() -> None:
    for kind in CLIP_KINDS:
        first, again, other = sample_clip(kind, 4), sample_clip(kind, 4), sample_clip(kind, 5)
        assert first == again
        assert first != other
        assert first != sample_clip(kind, 4, "train")
        *frames, text = first.parts
        assert isinstance(text, str)
        assert {frame.size for frame in frames} == {(112, 112)}
    assert {len(sample_clip("change", seed).parts) - 1 for seed in range(30)} == set(NUM_FRAMES)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of motion, change; got 'which'"):
        sample_clip("which", 0)
