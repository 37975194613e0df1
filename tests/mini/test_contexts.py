"""Contexts of several pictures: true, reproducible, uniform, and not betrayed by their words."""

import re
from collections import Counter, defaultdict
from random import Random

import numpy as np
import pytest
from PIL import Image

from tessella.mini.contexts import CONTEXT_KINDS, NUM_PICTURES, SORTS, Context, draw_context, sample_context
from tessella.mini.world import COLOURS, SHAPES, Scene


def _solve(context: Context, text: str) -> str:
    """Answer a question from the lists of objects, by rules written apart from the generator's."""
    if match := re.fullmatch(r"which picture shows the (\w+) (\w+)\?", text):
        found = [n for n, s in enumerate(context.scenes, 1) for i in s.items if (i.colour, i.shape) == match.groups()]
        assert len(found) == 1
        return str(found[0])
    match = re.fullmatch(r"what color is the (\w+) in picture (\d)\?", text)
    assert match, text
    (item,) = [i for i in context.scenes[int(match[2]) - 1].items if match[1] in (i.shape, i.kind)]
    return item.colour


@pytest.mark.parametrize("kind", ["which", "pick"])
def test_all_questions_about_numbered_pictures_are_true(kind: str) -> None:
    rng, asked = Random(f"true/{kind}"), Counter()
    for _ in range(60):
        context = draw_context(kind, rng, "test")
        assert context.parts[::2] == tuple(f"picture {n}:" for n in range(1, len(context.scenes) + 1))
        assert context.questions[0].kind == kind
        assert len({question.text for question in context.questions}) == len(context.questions)
        for question in context.questions:
            asked[question.kind] += 1
            assert _solve(context, question.text) == question.answer
    assert min(asked["which"], asked["pick"]) > 200


def test_demonstrations_alone_decide_what_is_named() -> None:
    rng, sorts = Random(2), Counter()
    for _ in range(90):
        context = draw_context("shots", rng, "test")
        (question,) = context.questions
        labels = [part for part in context.parts if not isinstance(part, Scene)]
        assert len(labels) == len(context.scenes) - 1
        sort = next(sort for sort, values in SORTS.items() if question.answer in values)
        sorts[sort] += 1
        for scene, label in zip(context.scenes, [*labels, question.answer], strict=True):
            shape, digit = sorted(scene.items, key=lambda item: item.kind, reverse=True)
            assert shape.colour == digit.colour
            assert label == {"colour": shape.colour, "shape": shape.shape, "digit": digit.text}[sort]
        assert isinstance(context.parts[-1], Scene)
    assert set(sorts) == set(SORTS)
    assert min(sorts.values()) > 15


def test_a_wrong_picture_holds_near_misses_and_as_many_objects_of_the_kind() -> None:
    rng = Random(3)
    for _ in range(40):
        context = draw_context("which", rng, "test")
        colour, shape = context.questions[0].text[:-1].split()[-2:]
        for scene in context.scenes:
            related = [i for i in scene.items if i.colour == colour or i.shape == shape]
            assert len(related) == 3
            assert any(i.colour != colour for i in related)
            assert any(i.shape != shape for i in related)


@pytest.mark.parametrize("count", NUM_PICTURES)
def test_answers_are_uniform_given_the_number_of_pictures(count: int) -> None:
    rng = Random(f"uniform/{count}")
    places = Counter(draw_context("which", rng, "test", count).questions[0].answer for _ in range(300))
    assert set(places) == {str(n) for n in range(1, count + 1)}
    assert max(places.values()) < 300 / count + 4 * np.sqrt(300 / count)
    colours = Counter(draw_context("pick", rng, "test", count).questions[0].answer for _ in range(300))
    assert set(colours) == set(COLOURS)
    assert max(colours.values()) < 300 / 8 + 4 * np.sqrt(300 / 8)


@pytest.mark.parametrize("kind", ["which", "pick"])
def test_words_do_not_betray_the_answer(kind: str) -> None:
    rng, answers = Random(f"blind/{kind}"), defaultdict(Counter)
    for _ in range(500):
        question = draw_context(kind, rng, "test", 3).questions[0]
        for word in set(question.text.split()):
            answers[word][question.answer] += 1
    share = 1 / 3 if kind == "which" else 1 / 8
    for word, counts in answers.items():
        number = sum(counts.values())
        if number >= 60:
            assert max(counts.values()) / number < share + 4 * np.sqrt(share * (1 - share) / number), word


def test_samples_depend_on_their_arguments_only() -> None:
    for kind in CONTEXT_KINDS:
        first, again, other = sample_context(kind, 4), sample_context(kind, 4), sample_context(kind, 5)
        assert first == again
        assert first != other
        assert first != sample_context(kind, 4, "train")
        pictures = [part for part in first.parts if isinstance(part, Image.Image)]
        assert {picture.size for picture in pictures} == {(112, 112)}
        assert 2 <= len(pictures) <= 4
    assert isinstance(sample_context("which", 4).parts[-1], str)
    assert isinstance(sample_context("shots", 4).parts[-1], Image.Image)
    numbers = Counter(len(sample_context("shots", seed).parts) // 2 + 1 for seed in range(60))
    assert set(numbers) == set(NUM_PICTURES)
    assert {sample_context("shots", seed).answer for seed in range(300)} == {*COLOURS, *SHAPES, *"0123456789"}


def test_unknown_kinds_and_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of which, pick, shots; got 'motion'"):
        sample_context("motion", 0)
    with pytest.raises(ValueError, match="split must be 'train' or 'test'; got 'val'"):
        sample_context("which", 0, "val")
