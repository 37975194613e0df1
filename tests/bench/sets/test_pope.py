"""POPE: what is asked, how answers are read, and its metrics by split."""

from __future__ import annotations

import pytest
from drawn_pictures import picture

from tessella.bench.sets import load_set
from tessella.bench.sets.scoring.yes_no import polar_metrics, read_first_sentence
from tessella.bench.task import Answered


def test_questions_come_with_the_short_answer_instruction(write_set):
    rows = [
        {
            "question": f" Is there a {thing} in the image? ",
            "answer": answer,
            "category": split,
            "image": picture("red"),
        }
        for split, thing, answer in (("popular", "dog", "No"), ("random", "cat", "yes"), ("popular", "car", "yes"))
    ]
    task = load_set("pope", write_set(rows))
    assert task.kinds == ("random", "popular")
    dog, car = task.draw("popular", [0, 1])
    assert dog.parts[1] == "Is there a dog in the image?\nAnswer the question using a single word or phrase."
    assert (dog.truth, car.truth) == ("no", "yes")


def test_an_answer_is_no_if_its_first_sentence_says_so_and_else_yes():
    said = {
        "No": "no",
        "no, there is none": "no",
        "There is not.": "no",
        "Yes": "yes",
        "Yes. There is no doubt.": "yes",
        "NO": "yes",  # the authors' rule knows three spellings
        "nothing": "yes",
        "": "yes",
    }
    assert {answer: read_first_sentence(answer) for answer in said} == said


def test_polar_metrics_by_hand():
    # 4 say yes, of which 3 are right; 5 are there, of which 3 are found; of 8 answers 5 are right
    pairs = [("yes", "yes")] * 3 + [("yes", "no")] + [("no", "yes")] * 2 + [("no", "no")] * 2
    assert polar_metrics(pairs) == pytest.approx(
        {"accuracy": 5 / 8, "precision": 3 / 4, "recall": 3 / 5, "F1": 2 * 0.75 * 0.6 / 1.35, "yes rate": 1 / 2}
    )
    nobody = polar_metrics([("no", "yes"), ("no", "no")])
    assert nobody == {"accuracy": 0.5, "precision": 0.0, "recall": 0.0, "F1": 0.0, "yes rate": 0.0}


def test_metrics_are_means_over_splits_and_then_those_of_each():
    task = load_set("pope")
    given = [("random", "Yes", "yes"), ("random", "No", "no"), ("popular", "Yes", "no"), ("popular", "Yes", "yes")]
    given += [("popular", "yes", "no"), ("popular", "No.", "no")]
    answers = [Answered(kind, n, said, true, task.score(said, true)) for n, (kind, said, true) in enumerate(given)]
    assert [a.score for a in answers] == [1, 1, 0, 1, 0, 1]
    metrics = task.metrics(answers)
    # random: all right, half yes. popular: 2 of 4 right; 1 of 3 yes is right; the one there is found
    assert metrics["accuracy, random"] == 1.0
    assert metrics["accuracy, popular"] == 0.5
    assert metrics["precision, popular"] == pytest.approx(1 / 3)
    assert metrics["F1, popular"] == pytest.approx(0.5)
    assert metrics["accuracy"] == pytest.approx(0.75)  # and not 4 of 6
    assert metrics["F1"] == pytest.approx(0.75)
    assert metrics["yes rate"] == pytest.approx((1 / 2 + 3 / 4) / 2)
    assert list(metrics)[:5] == ["accuracy", "precision", "recall", "F1", "yes rate"]
    assert task.metrics([]) == {}
