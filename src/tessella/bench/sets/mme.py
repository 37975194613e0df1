"""MME: two yes/no questions on each picture, one of which has the answer yes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..task import Answered
from .loading import HubSet, Row
from .scoring.mme_scores import COGNITION, PERCEPTION, mme_scores
from .scoring.yes_no import read_first_letters

_OWN_INSTRUCTION = "Please answer yes or no."


class MME(HubSet):
    """Yes/no questions on perception and cognition, in 14 subtasks.

    Set      Fu et al., 2023, arXiv:2306.13394; 2,374 questions on 1,187 pictures, kinds are its subtasks, in which the
             two questions on a picture follow each other
    Prompt   the question with LLaVA-1.5's short-answer instruction in place of its own "Please answer yes or no.", as
             lmms-eval's task `mme` has it
    Score    accuracy; an answer is read by the rule of the authors' evaluation (`read_first_letters`)
    Metrics  the total, perception (at most 2,000) and cognition (at most 800), and each subtask's score (at most 200)
    Differs  the authors' sums need all subtasks; here those of the subtasks that were asked are added, and a picture
             of which one question only was answered is left out
    """

    title = "MME"
    repository = "lmms-lab-encoder/MME"
    revision = "d6c9023f017b564f7b3ccccf5348166bce8fdbcd"
    split = "test"
    columns = ("question_id", "question", "answer", "category")
    kind_column = "category"
    first_kinds = (*PERCEPTION, *COGNITION)

    def order(self, row: Row) -> Any:
        return row["question_id"]

    def prompt(self, row: Row) -> str:
        return f"{row['question'].replace(_OWN_INSTRUCTION, '').strip()}\n{self.instruction}"

    def truth(self, row: Row) -> str:
        return json.dumps({"answer": row["answer"].strip().lower(), "picture": row["question_id"]})

    def score(self, answer: str, truth: str) -> float:
        return float(read_first_letters(answer) == json.loads(truth)["answer"])

    def metrics(self, answers: Sequence[Answered]) -> dict[str, float]:
        return mme_scores((a.kind, json.loads(a.truth)["picture"], a.score) for a in answers)
