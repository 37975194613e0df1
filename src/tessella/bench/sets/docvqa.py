"""DocVQA: questions on scanned pages, answered with words that stand there."""

from __future__ import annotations

import json

from .loading import HubSet, Row
from .scoring.anls import anls


class DocVQA(HubSet):
    """Questions on letters, forms, tables and reports of an archive of industry documents.

    Set      Mathew et al., WACV 2021, arXiv:2007.00398; 5,349 questions of the validation split (the test split's
             answers are not public), with one or more true answers each
    Prompt   the question and LLaVA-1.5's short-answer instruction, as lmms-eval's task `docvqa_val` has it
    Score    ANLS with the threshold 0.5, by the rule of the challenge's evaluation program
    Metrics  the mean over all questions
    Differs  nothing known
    """

    title = "DocVQA"
    metric = "ANLS"
    max_new_tokens = 32
    repository = "lmms-lab-encoder/DocVQA"
    revision = "539088ef8a8ada01ac8e2e6d4e372586748a265e"
    config = "DocVQA"
    split = "validation"
    columns = ("question", "answers")

    def truth(self, row: Row) -> str:
        return json.dumps(list(row["answers"]))

    def score(self, answer: str, truth: str) -> float:
        return anls(answer, json.loads(truth))
