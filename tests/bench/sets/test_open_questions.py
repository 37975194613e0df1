"""VQAv2, TextVQA, VizWiz and GQA: what is asked and what answers are worth."""

from __future__ import annotations

import json

import datasets
import pytest
from drawn_pictures import picture

from tessella.bench.sets import load_set
from tessella.bench.sets.scoring.exact_match import exact_match
from tessella.bench.task import Answered

SHORT = "Answer the question using a single word or phrase."


def answers_of(task, said: str) -> list[Answered]:
    """The same answer to every question."""
    asked = [q for kind in task.kinds for q in task.draw(kind, task.numbers(kind))]
    return [Answered(q.kind, q.number, said, q.truth, task.score(said, q.truth)) for q in asked]


def test_vqav2(write_set):
    def row(question: str, kind: str, given: list[str]) -> dict:
        people = [{"answer": a, "answer_confidence": "yes", "answer_id": n} for n, a in enumerate(given, 1)]
        return {"question": question, "answers": people, "answer_type": kind, "image": picture("red")}

    rows = [
        row("How many?", "number", ["two"] * 2 + ["3"] * 8),
        row("What is it?", "other", ["the dog"] * 10),
        row("Are there two?", "yes/no", ["yes"] * 10),
    ]
    task = load_set("vqav2", write_set(rows))
    assert task.kinds == ("yes/no", "number", "other")
    [asked] = task.draw("number", [0])
    assert asked.parts[0].size == (12, 8)
    assert asked.parts[1] == f"How many?\n{SHORT}"
    assert json.loads(asked.truth) == ["two", "two"] + ["3"] * 8
    assert task.score("2", asked.truth) == pytest.approx(0.6)
    assert task.score("Dog.", task.draw("other", [0])[0].truth) == 1.0
    assert task.metrics(answers_of(task, "2")) == pytest.approx(
        {"VQA accuracy": 0.2, "VQA accuracy, yes/no": 0.0, "VQA accuracy, number": 0.6, "VQA accuracy, other": 0.0}
    )


def test_textvqa_with_and_without_what_ocr_found(write_set):
    given = ["Joe's"] * 3 + ["joe 's bar"] * 7
    rows = [
        {
            "question": "what does the Sign say?",
            "answers": given,
            "ocr_tokens": ["JOE'S", "BAR"],
            "image": picture("red"),
        }
    ]
    path = write_set(rows)
    plain, hinted = load_set("textvqa", path), load_set("textvqa", path, ocr=True)
    assert plain.kinds == ("all",)
    [asked], [told] = plain.draw("all", [0]), hinted.draw("all", [0])
    assert asked.parts[1] == f"What does the sign say?\n{SHORT}"
    assert told.parts[1] == f"What does the sign say?\nReference OCR token: JOE'S, BAR\n{SHORT}"
    assert plain.score("Joe's bar", asked.truth) == 1.0
    assert plain.score("joe's", asked.truth) == pytest.approx(0.9)
    assert plain.facts()["options"] == {"ocr": False}
    assert hinted.facts()["options"] == {"ocr": True}
    assert plain.facts()["rows"] == hinted.facts()["rows"]
    assert plain.metrics(answers_of(plain, "joe's")) == {"VQA accuracy": pytest.approx(0.9)}


def test_vizwiz_knows_what_cannot_be_answered(write_set):
    rows = [
        {"question": "what is THIS?", "answers": ["unanswerable"] * 6 + ["can"] * 4, "image": picture("red")},
        {"question": "color?", "answers": ["red"] * 6 + ["unanswerable"] * 4, "image": picture("red")},
    ]
    task = load_set("vizwiz", write_set(rows))
    assert task.kinds == ("answerable", "unanswerable")
    [asked] = task.draw("unanswerable", [0])
    assert asked.parts[1] == (
        f"What is this?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n{SHORT}"
    )
    metrics = task.metrics(answers_of(task, "Red"))
    assert metrics == {"VQA accuracy": 0.5, "VQA accuracy, answerable": 1.0, "VQA accuracy, unanswerable": 0.0}
    assert task.score("Unanswerable", asked.truth) == 1.0


def gqa_row(image_id: str, question: str, answer: str, structural: str) -> dict:
    types = {"structural": structural, "semantic": "attr", "detailed": "color"}
    return {"id": "1", "imageId": image_id, "question": question, "answer": answer, "types": types}


GQA_ROWS = [
    gqa_row("n1", "Is it red?", "yes", "verify"),
    gqa_row("n2", "What is on the table?", "coffee cup", "query"),
    gqa_row("n3", "Is it red or blue?", "red", "choose"),
]


def test_gqa_from_one_file_with_pictures(write_set):
    task = load_set("gqa", write_set([row | {"image": picture("navy")} for row in GQA_ROWS]))
    assert task.kinds == ("verify", "choose", "query")
    [asked] = task.draw("query", [0])
    assert asked.parts[1] == f"What is on the table?\n{SHORT}"
    assert asked.parts[0].getpixel((0, 0)) == (0, 0, 128)
    assert (task.score("Coffee cup.", asked.truth), task.score("cup", asked.truth)) == (1.0, 0.0)
    metrics = task.metrics(answers_of(task, "red"))
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert (metrics["accuracy, binary"], metrics["accuracy, open"]) == (0.5, 0.0)
    assert "accuracy, open" not in task.metrics(answers_of(task, "red")[:2])


def test_gqa_finds_pictures_in_their_own_configuration(tmp_path):
    """A copy of the repository: two configurations, declared in its README; the picture of n3 is missing."""
    questions, pictures = "testdev_balanced_instructions", "testdev_balanced_images"
    for name, rows in (
        (questions, GQA_ROWS),
        (pictures, [{"id": "n2", "image": picture("lime")}, {"id": "n1", "image": picture("blue")}]),
    ):
        (tmp_path / name).mkdir()
        datasets.Dataset.from_list(rows).to_parquet(tmp_path / name / "testdev-00000-of-00001.parquet")
    configs = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: testdev\n    path: {name}/testdev-*\n"
        for name in (questions, pictures)
    )
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    task = load_set("gqa", tmp_path)
    colours = {q.kind: q.parts[0].getpixel((0, 0)) for kind in task.kinds for q in task.draw(kind, task.numbers(kind))}
    assert colours == {"verify": (0, 0, 255), "query": (0, 255, 0)}


def test_exact_match_but_for_case_punctuation_and_spaces():
    assert exact_match(" T-Shirt. ", "t-shirt") == 1.0
    assert exact_match("two  dogs", "two dogs") == 1.0
    assert exact_match("dogs", "two dogs") == 0.0
