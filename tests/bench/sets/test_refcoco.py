"""RefCOCO: one question a phrase, boxes as shares of a picture's sides, and overlap worked out by hand."""

from __future__ import annotations

import json

import pytest
from drawn_pictures import picture

from tessella.bench.sets import load_set
from tessella.bench.task import Answered


@pytest.fixture
def rows():
    return [
        {"question": "not asked", "answer": ["left cup", "the red cup"], "bbox": [10.0, 5.0, 50.0, 40.0], "image": seen}
        for seen in (picture("red", (100, 50)), None)
    ] + [{"question": "", "answer": ["dog"], "bbox": [0.0, 0.0, 10.0, 10.0], "image": picture("blue", (20, 40))}]


def test_a_row_is_as_many_questions_as_phrases(write_set, rows):
    task = load_set("refcoco", write_set(rows))
    assert task.numbers("all") == range(5)
    asked = task.draw("all", [4, 0, 1, 2])  # the picture of 2 and 3 is missing
    assert [a.number for a in asked] == [4, 0, 1]
    assert [a.parts[1].rpartition(": ")[2] for a in asked] == ["dog", "left cup", "the red cup"]
    assert asked[1].parts[1].startswith("Bounding box coordinates are specified in the format (top-left x,")
    assert json.loads(asked[0].truth) == {"box": [0, 0, 0.5, 0.25], "size": [20, 40]}
    assert json.loads(asked[1].truth) == {"box": [0.1, 0.1, 0.6, 0.9], "size": [100, 50]}


def test_half_of_the_union_is_enough(write_set, rows):
    task = load_set("refcoco", write_set(rows))
    truth = json.dumps({"box": [0.0, 0.0, 0.5, 0.5], "size": [200, 100]})
    assert task.score("It is at [0, 0, 0.5, 0.25].", truth) == 1  # 0.125 of 0.25
    assert task.score("[0, 0, 0.5, 0.2]", truth) == 0  # 0.1 of 0.25
    assert task.score("[0, 0, 100, 50]", truth) == 1  # pixels
    assert task.score("[0, 0, 500, 500]", truth) == 0
    assert load_set("refcoco", thousandths=True).score("[0, 0, 500, 500]", truth) == 1
    assert task.score("in the corner", truth) == 0


def test_metrics_and_facts(write_set, rows):
    place = write_set(rows)
    task = load_set("refcoco", place)
    truth = json.dumps({"box": [0.0, 0.0, 0.5, 0.5], "size": [200, 100]})
    answers = ["[0, 0, 0.5, 0.5]", "[0, 0, 0.5, 0.2]", "none"]  # 1, 0.4 and 0
    given = [Answered("all", i, a, truth, task.score(a, truth)) for i, a in enumerate(answers)]
    assert task.metrics(given) == {"Acc@0.5": pytest.approx(1 / 3), "mean IoU": pytest.approx(1.4 / 3)}
    assert task.metrics([]) == {}
    assert task.facts()["options"] == {"thousandths": False}
    told = {"task": "refcoco(thousandths=True) 1", "options": {"thousandths": True}}
    assert load_set("refcoco", place, thousandths=True).facts() == {**task.facts(), **told}
