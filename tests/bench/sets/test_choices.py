"""MMBench and ScienceQA: options, the letters that answers name, circles."""

from __future__ import annotations

import json

import pytest
from drawn_pictures import picture

from tessella.bench.sets import load_set
from tessella.bench.sets.scoring.choices import match_option, read_letter
from tessella.bench.sets.scoring.circular import circular_accuracy
from tessella.bench.task import Answered

LETTER = "Answer with the option's letter from the given choices directly."


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("B. cat", "B"),
        ("The answer is B.", "B"),
        ("So. The answer is A. ", "A"),
        ("Because", None),
        ("(B)", None),
        ("B cat", None),
        ("The answer is A. The answer is B.", None),
        ("", None),
    ],
)
def test_letters_as_llava_reads_them(answer, letter):
    assert read_letter(answer) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B: cat", "B"),
        ("The answer is B.", "B"),
        ("A", "A"),
        ("A dog", "A"),
        ("A cat sits on it", "B"),  # of five words the A is an article
        ("It is a CAT", "B"),
        ("C", None),  # no such option
        ("A or B", None),
        ("dog and cat", None),
        ("", None),
    ],
)
def test_options_by_letter_and_then_by_text(answer, letter):
    assert match_option(answer, {"A": "dog", "B": "cat"}) == letter


def test_circles_by_hand():
    # 1: right twice; 2: right once of two; 3: one of its three is missing, so that it does not count
    answers = [(1, 2, 1.0), (2, 2, 1.0), (3, 3, 1.0), (1, 2, 1.0), (2, 2, 0.0), (3, 3, 1.0)]
    assert circular_accuracy(answers) == 0.5
    assert circular_accuracy(answers[:3]) is None


def mmbench_row(index: int, answer: str, options: list, hint: str | None = None) -> dict:
    texts = dict(zip("ABCD", [*options, None, None, None, None][:4], strict=True))
    facts = {"index": index, "question": "Which pet?", "hint": hint, "answer": answer, "L2-category": "logic_reasoning"}
    return facts | texts | {"image": picture("red")}


def test_mmbench(write_set):
    rows = [
        mmbench_row(9, "A", ["dog", "cat", "nan"], hint="nan"),
        mmbench_row(4, "B", ["dog", "cat"], hint="Look."),
        mmbench_row(1_000_009, "B", ["cat", "dog"]),
        mmbench_row(1_000_004, "A", ["cat", "dog"]),
    ]
    task = load_set("mmbench", write_set(rows))
    asked = task.draw("logic_reasoning", task.numbers("logic_reasoning"))
    truths = [json.loads(q.truth) for q in asked]
    assert [(t["question"], t["of"], t["answer"]) for t in truths] == [
        (4, 2, "B"),
        (4, 2, "A"),
        (9, 2, "A"),
        (9, 2, "B"),
    ]
    assert asked[0].parts[1] == f"Look.\nWhich pet?\nA. dog\nB. cat\n{LETTER}"
    assert asked[2].parts[1] == f"Which pet?\nA. dog\nB. cat\n{LETTER}"
    # "B" is right in the first row of 4 and the second of 9; the text "dog" in both of 9 and none of 4
    said = ["B", "B", "It is the dog", "dog"]
    answers = [
        Answered(q.kind, q.number, text, q.truth, task.score(text, q.truth))
        for q, text in zip(asked, said, strict=True)
    ]
    assert [a.score for a in answers] == [1.0, 0.0, 1.0, 1.0]
    assert task.metrics(answers) == {"circular accuracy": 0.5, "accuracy": 0.75}
    assert task.metrics(answers[1:3]) == {"accuracy": 0.5}


def test_scienceqa(write_set):
    def row(subject: str, hint: str, answer: int) -> dict:
        facts = {"question": "Which one?", "choices": ["rock", "tree", "frog"], "answer": answer}
        return facts | {"hint": hint, "subject": subject, "image": picture("red")}

    task = load_set("scienceqa", write_set([row("language science", "", 2), row("natural science", "See it.", 1)]))
    assert task.kinds == ("natural science", "language science")
    [hinted], [bare] = (task.draw(kind, [0]) for kind in task.kinds)
    assert hinted.parts[1] == f"Context: See it.\nWhich one?\nA. rock\nB. tree\nC. frog\n{LETTER}"
    assert bare.parts[1] == f"Which one?\nA. rock\nB. tree\nC. frog\n{LETTER}"
    assert (hinted.truth, bare.truth) == ("B", "C")
    assert [task.score(said, "B") for said in ("B", "b", "B. tree", "tree", "C")] == [1.0, 1.0, 1.0, 0.0, 0.0]
