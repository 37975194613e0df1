"""CHAIR: which classes a caption names, and shares worked out by hand."""

from __future__ import annotations

import pytest

from tessella.bench.sets.scoring.chair import Chair, chair, named_objects
from tessella.bench.sets.scoring.coco_objects import CLASSES, NAMED, WORDS


@pytest.mark.parametrize(
    "caption, names",
    [
        ("A man rides a motorcycle.", ["person", "motorcycle"]),
        ("Women and children on benches", ["person", "person", "bench"]),
        ("knives, wine glasses, a pair of scissors", ["knife", "wine glass", "scissors"]),
        ("a teddy bear on a train track", ["teddy bear"]),
        ("a baby elephant and a passenger train", ["elephant", "train"]),
        ("a baby holds a puppy", ["person", "dog"]),
        ("a pickup truck beside a fire-hydrant", ["truck", "fire hydrant"]),
        ("a hot dog and a dog", ["hot dog", "dog"]),
        ("a toilet seat", ["toilet"]),
        ("the sky is blue", []),
        ("", []),
    ],
)
def test_objects_of_a_caption(caption: str, names: list[str]) -> None:
    assert named_objects(caption) == names


def test_all_classes_are_named_by_their_own_name() -> None:
    assert len(CLASSES) == 80
    assert [NAMED[name] for name in CLASSES] == list(CLASSES)


def test_no_word_names_two_classes() -> None:
    words = [word for name, others in WORDS.items() for word in (name.replace(" ", "_"), *others.split())]
    assert sorted(words) == sorted(set(words))


def test_shares() -> None:
    # first: dog is wrong, man is right; second: cat twice right; third names nothing; fourth: two wrong
    captions = ["a man and a dog", "a cat beside a cat", "the sky", "a bus and a car"]
    objects = [{"person"}, {"cat"}, {"dog"}, {"bench"}]
    assert chair(captions, objects) == Chair(instances=3 / 6, sentences=2 / 4)


def test_no_objects_and_no_captions() -> None:
    assert chair(["the sky"], [{"dog"}]) == chair([], []) == Chair(0, 0)
