"""COCO captions: the prompt, scores of a caption and of all, objects that are there and errors of one line."""

from __future__ import annotations

import json

import pytest
from drawn_pictures import picture

from tessella.bench.sets import load_set
from tessella.bench.task import Answered
from tessella.core.errors import InputError

CAPTIONS = [["a man on a horse", "a rider outside"], ["a red bus"]]


@pytest.fixture
def data(write_set):
    rows = [
        {"question_id": f"00000000{139 + i}.jpg", "question": "?", "answer": told, "image": picture("red")}
        for i, told in enumerate(CAPTIONS)
    ]
    return write_set(rows)


@pytest.fixture
def instances(tmp_path):
    """Annotations in COCO's form: picture 139 has a dog besides what its captions name; 140 has none at all."""
    file = tmp_path / "instances_val2017.json"
    annotations = [{"id": 1, "image_id": 139, "category_id": 18}, {"id": 2, "image_id": 7, "category_id": 1}]
    categories = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
    file.write_text(json.dumps({"annotations": annotations, "categories": categories, "images": []}))
    return file


def test_prompt_and_score(data):
    task = load_set("coco_captions", data)
    [asked, _] = task.draw("all", [0, 1])
    assert asked.parts[1] == "Provide a one-sentence caption for the provided image."
    assert json.loads(asked.truth) == {"captions": CAPTIONS[0]}
    assert task.score("A man on a horse.", asked.truth) == 1
    # "a man" of 4 words in either: precision 1, recall 2/5
    assert task.score("a man", asked.truth) == pytest.approx(2.44 * 0.4 / (0.4 + 1.44))


def test_metrics_of_all_captions(data):
    task = load_set("coco_captions", data)
    first, second = task.draw("all", [0, 1])
    answers = [(first, "nothing at all"), (second, "a red bus")]
    given = [Answered("all", q.number, a, q.truth, task.score(a, q.truth)) for q, a in answers]
    # the second is its reference: phrases of one, two and three words are the same, of four there are none
    assert task.metrics(given) == {"CIDEr-D": pytest.approx(10 * 3 / 4 / 2), "ROUGE-L": 0.5}
    assert list(task.metrics(given)) == ["CIDEr-D", "ROUGE-L"]
    assert task.metrics([]) == {}


def test_objects_are_annotated_or_named_by_people(data, instances):
    task = load_set("coco_captions", data, instances=instances)
    first, second = task.draw("all", [0, 1])
    assert json.loads(first.truth)["objects"] == ["dog", "horse", "person"]
    assert json.loads(second.truth)["objects"] == ["bus"]
    # man, dog and horse are there; of bus, car and dog only the first is
    answers = [(first, "a man and a dog beside a horse"), (second, "a bus, a car and a dog")]
    measured = task.metrics([Answered("all", q.number, a, q.truth, 0.0) for q, a in answers])
    assert measured["CHAIR of sentences"] == 1 / 2
    assert measured["CHAIR of instances"] == 2 / 6


def test_facts_tell_annotations_by_their_content(data, instances):
    task = load_set("coco_captions", data, instances=instances)
    [digest] = task.facts()["options"].values()
    assert len(digest) == 16
    moved = instances.rename(instances.with_name("moved.json"))
    assert load_set("coco_captions", data, instances=moved).facts() == task.facts()
    assert load_set("coco_captions", data).facts()["options"] == {"instances": None}


def test_annotations_that_cannot_be_used(data, tmp_path):
    (tmp_path / "other.json").write_text('{"annotations": [{}], "categories": []}')
    for name, message in (
        ("none.json", r"^COCO captions: instances cannot be read from '.*none\.json': No such file or directory\.$"),
        ("other.json", r"^COCO captions: instances must be COCO's instances_val2017\.json; got '.*other\.json'\.$"),
    ):
        with pytest.raises(InputError, match=message):
            load_set("coco_captions", data, instances=tmp_path / name).draw("all", [0])
