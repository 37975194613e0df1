"""ChartQA, DocVQA and OCRBench: what is asked, how answers are scored, and what is reported."""

from __future__ import annotations

import json

import pytest
from drawn_pictures import picture

from tessella.bench.sets import load_set
from tessella.bench.sets.ocrbench import POINTS
from tessella.bench.task import Answered


def test_chartqa(write_set):
    rows = [
        {"type": half, "question": question, "answer": answer, "image": picture(colour)}
        for half, question, answer, colour in (
            ("augmented_test", "How many?", "100", "red"),
            ("human_test", "Which line is highest?", "Chile", "lime"),
            ("human_test", "What share?", "25%", "blue"),
        )
    ]
    task = load_set("chartqa", write_set(rows))
    assert task.kinds == ("human_test", "augmented_test")
    first, second = task.draw("human_test", [0, 1])
    assert first.parts[1] == "Which line is highest?\nAnswer the question with a single word."
    assert first.parts[0].getpixel((0, 0)) == (0, 255, 0)
    assert (first.truth, second.truth) == ("Chile", "25%")
    assert [task.score(*pair) for pair in (("chile", "Chile"), ("0.26", "25%"), ("0.27", "25%"))] == [1, 1, 0]
    given = [Answered("human_test", i, "", "", score) for i, score in enumerate((1.0, 0.0))]
    given.append(Answered("augmented_test", 0, "", "", 1.0))
    assert task.metrics(given) == {
        "relaxed accuracy": pytest.approx(2 / 3),
        "relaxed accuracy, human_test": 0.5,
        "relaxed accuracy, augmented_test": 1.0,
    }


def test_docvqa(write_set):
    rows = [{"question": "Who signed?", "answers": ["T. Smith", "Smith"], "image": picture("white")}]
    task = load_set("docvqa", write_set(rows))
    [asked] = task.draw("all", [0])
    assert asked.parts[1] == "Who signed?\nAnswer the question using a single word or phrase."
    assert json.loads(asked.truth) == ["T. Smith", "Smith"]
    assert task.score("smith", asked.truth) == 1
    assert task.score("smyth", asked.truth) == 0.8  # one of five letters
    assert task.score("nobody", asked.truth) == 0
    given = [Answered("all", i, "", "", score) for i, score in enumerate((1.0, 0.8))]
    assert task.metrics(given) == {"ANLS": 0.9}


def ocr_row(kind: str, source: str, answers: list[str]) -> dict[str, object]:
    return {
        "dataset": source,
        "question": " what is it? ",
        "question_type": kind,
        "answer": answers,
        "image": picture("red"),
    }


class TestOCRBench:
    def test_questions_stand_alone_and_kinds_are_types(self, write_set):
        hmer, regular = "Handwritten Mathematical Expression Recognition", "Regular Text Recognition"
        rows = [ocr_row(hmer, "HME100k", ["x + 1"]), ocr_row(regular, "IIIT5K", ["CENTRE", "CENTER"])]
        task = load_set("ocrbench", write_set(rows))
        assert task.kinds == (regular, hmer)
        [formula], [word] = task.draw(hmer, [0]), task.draw(regular, [0])
        assert formula.parts[1] == "what is it?"
        assert [task.score(a, formula.truth) for a in ("$x+1$", "X+1")] == [1, 0]
        assert [task.score(a, word.truth) for a in ("the center", "cent re")] == [1, 0]

    def test_a_thousand_points(self):
        task = load_set("ocrbench")
        assert sum(POINTS.values()) == 1000
        # all of every type but 30 of 200 right in one: the number of right answers, as the authors count
        given = [
            Answered(kind, i, "", "", float(kind != "Doc-oriented VQA" or i < 30))
            for kind, num in POINTS.items()
            for i in range(num)
        ]
        measured = task.metrics(given)
        assert next(iter(measured)) == "OCRBench"
        assert measured["OCRBench"] == sum(a.score for a in given) == 830
        assert measured["accuracy, Doc-oriented VQA"] == 0.15

    def test_fewer_questions_count_by_their_share(self):
        # half of a type of 50 and all of one of 200: (25 + 200) / 250
        given = [Answered("Digit String Recognition", i, "", "", float(i)) for i in range(2)]
        given.append(Answered("Doc-oriented VQA", 0, "", "", 1.0))
        assert load_set("ocrbench").metrics(given)["OCRBench"] == 900
        assert load_set("ocrbench").metrics([]) == {}
