"""MMBench: multiple choice on twenty abilities, each question asked with its options in every place."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from ..task import Answered
from .loading import LETTER, HubSet, Row
from .scoring.choices import match_option
from .scoring.circular import circular_accuracy

CYCLE = 1_000_000  # indices of one question under rotated options differ by multiples of it


class MMBench(HubSet):
    """Multiple-choice questions in English with up to four options.

    Set      Liu et al., ECCV 2024, arXiv:2307.06281; 4,329 rows of the dev split, which are 1,164 questions under
             rotations of their options. Kinds are the six abilities of its second level, in which the rotations of a
             question follow each other
    Prompt   the hint, if there is one, the question, and the options, each on a line with its letter; then LLaVA-1.5's
             instruction to name a letter, in the form of LLaVA-1.5's evaluation
    Score    accuracy of a row; an answer is read by its letter, then by its text (`match_option`)
    Metrics  circular accuracy, the set's own: a question is right if it is in all its rotations; then the accuracy over
             rows. Questions of which a rotation was not answered are left out of the first
    Differs  an answer that names no option is wrong; the authors ask a language model what it means
    """

    title = "MMBench (English, dev)"
    repository = "lmms-lab-encoder/MMBench"
    revision = "56ba1af8954932c4804bd3f522e05ed96e63b654"
    config = "en"
    split = "dev"
    columns = ("index", "question", "hint", "answer", "A", "B", "C", "D", "L2-category")
    kind_column = "L2-category"
    instruction = LETTER

    def order(self, row: Row) -> Any:
        return int(row["index"]) % CYCLE, int(row["index"])

    def prompt(self, row: Row) -> str:
        hint = [row["hint"]] if _is_text(row["hint"]) else []
        options = [f"{letter}. {text}" for letter, text in _options(row).items()]
        return "\n".join([*hint, row["question"], *options, self.instruction])

    def truth(self, row: Row) -> str:
        question = int(row["index"]) % CYCLE
        facts = {"answer": row["answer"], "question": question, "of": self._rotations[question]}
        return json.dumps(facts | {"options": _options(row)}, ensure_ascii=False)

    def score(self, answer: str, truth: str) -> float:
        facts = json.loads(truth)
        return float(match_option(answer, facts["options"]) == facts["answer"])

    def metrics(self, answers: Sequence[Answered]) -> dict[str, float]:
        truths = [json.loads(a.truth) for a in answers]
        circular = circular_accuracy([(t["question"], t["of"], a.score) for t, a in zip(truths, answers, strict=True)])
        return ({} if circular is None else {"circular accuracy": circular}) | super().metrics(answers)

    @cached_property
    def _rotations(self) -> Counter[int]:
        """How many rows a question has."""
        return Counter(int(index) % CYCLE for index in self.rows["index"])


def _options(row: Row) -> dict[str, str]:
    return {letter: row[letter] for letter in "ABCD" if _is_text(row[letter])}


def _is_text(cell: str | None) -> bool:
    return cell not in (None, "", "nan")  # the hub's copy writes a missing text as nan
