"""MME: prompts, how answers are read, and the scores of pairs."""

from __future__ import annotations

import json

import pytest
from drawn_pictures import picture

from tessella.bench.sets import load_set
from tessella.bench.sets.scoring.mme_scores import COGNITION, PERCEPTION, mme_scores
from tessella.bench.sets.scoring.yes_no import read_first_letters
from tessella.bench.task import Answered


def test_answers_are_read_by_their_first_four_characters():
    said = {"Yes": "yes", "no.": "no", "Y": "yes", "n": "no", "x": "other", "": "other", "It is": "other"}
    said |= {"yes, it is": "yes", "Not at all": "no", "The answer is yes": "other"}
    assert {answer: read_first_letters(answer) for answer in said} == said


def test_scores_by_hand():
    # count: 3 of 4 right is 75, 1 of 2 pictures wholly right is 50; OCR: 1 of 2 and none; the code picture lacks one
    answers = [("count", "a", 1.0), ("count", "a", 1.0), ("count", "b", 1.0), ("OCR", "a", 0.0), ("OCR", "a", 1.0)]
    answers += [("count", "b", 0.0), ("code_reasoning", "c", 1.0)]
    answers += [("text_translation", "d", 1.0), ("text_translation", "d", 1.0)]
    assert mme_scores(answers) == {
        "total": 375.0,
        "perception": 175.0,
        "cognition": 200.0,
        "count": 125.0,
        "OCR": 50.0,
        "text_translation": 200.0,
    }
    assert mme_scores([]) == mme_scores([("count", "a", 1.0)]) == {}


def test_a_perfect_model_has_2000_and_800_points():
    scores = mme_scores([(subtask, "a", 1.0) for subtask in (*PERCEPTION, *COGNITION) for _ in range(2)])
    assert (scores["perception"], scores["cognition"], scores["total"]) == (2000.0, 800.0, 2800.0)


def test_questions_of_a_picture_follow_each_other(write_set):
    def row(number: int, question: str, answer: str) -> dict:
        facts = {"question_id": f"count/{number}.png", "question": question, "answer": answer, "category": "count"}
        return facts | {"image": picture("red")}

    rows = [row(2, "Two? Please answer yes or no.", "Yes"), row(1, "One? Please answer yes or no.", "No")]
    rows += [row(2, "Three? Please answer yes or no.", "No")]
    task = load_set("mme", write_set(rows))
    assert task.kinds == ("count",)
    asked = task.draw("count", task.numbers("count"))
    assert [q.parts[1].split("?")[0] for q in asked] == ["One", "Two", "Three"]
    assert asked[0].parts[1] == "One?\nAnswer the question using a single word or phrase."
    assert json.loads(asked[1].truth) == {"answer": "yes", "picture": "count/2.png"}
    answers = [Answered("count", q.number, "Yes", q.truth, task.score("Yes", q.truth)) for q in asked]
    assert [a.score for a in answers] == [0.0, 1.0, 0.0]
    assert task.metrics(answers) == pytest.approx({"total": 50, "perception": 50, "cognition": 0, "count": 50})
