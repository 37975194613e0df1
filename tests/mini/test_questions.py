"""Questions: reproducible, true, unambiguous, and with answers that the words do not betray."""

import re
from collections import Counter, defaultdict
from random import Random

import numpy as np
import pytest

from tessella.mini.questions import ANSWERS, DOMINANCE, KINDS, ask, draw_sample, sample
from tessella.mini.world import COLOURS, SHAPES, Item, Scene


def _find(scene: Scene, name: str) -> Item:
    """The one object of a name such as "star", "red star", "digit"."""
    *colour, noun = name.split()
    found = [i for i in scene.items if noun in (i.shape, i.kind) and colour in ([], [i.colour])]
    assert len(found) == 1, f"{name} refers to {len(found)} objects"
    return found[0]


def _solve(scene: Scene, text: str) -> str:
    """Answer a question from the list of objects, by rules written apart from the generator's."""
    if match := re.fullmatch(r"what color is the (\w+)\?", text):
        return _find(scene, match[1]).colour
    if match := re.fullmatch(r"what shape is the (\w+) object\?", text):
        (item,) = [i for i in scene.items if i.colour == match[1]]
        return item.shape
    if match := re.fullmatch(r"where is the (.+) relative to the (.+)\?", text):
        (ax, ay), (bx, by) = _find(scene, match[1]).centre, _find(scene, match[2]).centre
        dx, dy = ax - bx, ay - by
        assert max(abs(dx), abs(dy)) >= DOMINANCE * min(abs(dx), abs(dy))
        return (("left", "right")[dx > 0]) if abs(dx) > abs(dy) else ("above", "below")[dy > 0]
    if match := re.fullmatch(r"where is the (.+)\?", text):
        x, y = _find(scene, match[1]).centre
        assert min(abs(x - 56), abs(y - 56)) >= 8
        return f"{('top', 'bottom')[y > 56]} {('left', 'right')[x > 56]}"
    if match := re.fullmatch(r"how many (\w+) objects are there\?", text):
        return str(sum(i.colour == match[1] for i in scene.items))
    if match := re.fullmatch(r"how many (\w+?)(?:(?<=cross)es|s) are there\?", text):
        assert match[1] in SHAPES
        return str(sum(i.shape == match[1] for i in scene.items))
    if match := re.fullmatch(r"is there an? (\w+) (\w+)\?", text):
        colours, shapes = {i.colour for i in scene.items if i.shape}, {i.shape for i in scene.items}
        assert match[1] in colours
        assert match[2] in shapes
        return "yes" if any((i.colour, i.shape) == (match[1], match[2]) for i in scene.items) else "no"
    if match := re.fullmatch(r"what (digit|word) is (?:shown|written)\?", text):
        return _find(scene, match[1]).text
    match = re.fullmatch(r"what is the (\w+ (?:digit|word))\?", text)
    assert match, text
    return _find(scene, match[1]).text


@pytest.mark.parametrize("kind", KINDS)
def test_samples_are_true_and_unambiguous(kind: str) -> None:
    rng = Random(f"true/{kind}")
    for _ in range(120):
        scene, question = draw_sample(kind, rng, "test")
        assert question.kind == kind
        assert _solve(scene, question.text) == question.answer


@pytest.mark.parametrize("kind", KINDS)
def test_further_questions_are_true_and_unambiguous(kind: str) -> None:
    rng, asked = Random(f"further/{kind}"), 0
    for _ in range(60):
        scene, _ = draw_sample(rng.choice(KINDS), rng, "train")
        question = ask(scene, kind, rng)
        if question is not None:
            asked += 1
            assert _solve(scene, question.text) == question.answer
    assert asked >= 10


def test_sample_depends_on_kind_seed_and_split_only() -> None:
    first, again = sample("reading", 5), sample("reading", 5)
    assert first.image.tobytes() == again.image.tobytes()
    assert (first.question, first.answer) == (again.question, again.answer)
    others = [sample("reading", 6), sample("reading", 5, "train"), sample("digit", 5)]
    assert all(other.image.tobytes() != first.image.tobytes() for other in others)
    assert first.image.size == (112, 112)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "reading"])
def test_answers_are_uniform(kind: str) -> None:
    truths = Counter(sample(kind, seed).answer for seed in range(600))
    values = ANSWERS[kind]
    assert set(truths) == set(values)
    expected = 600 / len(values)
    chi_squared = sum((truths[value] - expected) ** 2 / expected for value in values)
    assert chi_squared < 2.5 * len(values) + 8


@pytest.mark.parametrize("kind", ["colour", "shape", "place", "relation", "count", "existence", "digit"])
def test_words_of_the_question_do_not_betray_the_answer(kind: str) -> None:
    """For each word, the answers to the questions that hold it stay close to uniform."""
    rng, answers, total = Random(f"blind/{kind}"), defaultdict(Counter), 700
    for _ in range(total):
        _, question = draw_sample(kind, rng, "test")
        for word in set(question.text.split()):
            answers[word][question.answer] += 1
    for word, counts in answers.items():
        number = sum(counts.values())
        if number < 60 or (kind == "existence" and word in ("a", "an")):
            continue
        best = max(counts.values()) / number
        share = 1 / len(ANSWERS[kind])
        assert best < share + 4 * np.sqrt(share * (1 - share) / number), (word, counts)


def test_reading_shows_words_of_all_lengths() -> None:
    lengths = Counter(len(sample("reading", seed).answer) for seed in range(200))
    assert set(lengths) == {2, 3, 4}
    assert min(lengths.values()) > 40


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of colour, shape"):
        sample("size", 0)
    scene, _ = draw_sample("colour", Random(0), "test")
    with pytest.raises(ValueError, match="got 'size'"):
        ask(scene, "size", Random(0))


def test_all_colours_and_shapes_are_asked_for() -> None:
    texts = " ".join(sample("existence", seed).question for seed in range(300))
    assert all(word in texts for word in (*COLOURS, *SHAPES))
