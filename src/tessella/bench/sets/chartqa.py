"""ChartQA: questions on charts, answered with a number or a word."""

from __future__ import annotations

from .loading import HubSet
from .scoring.relaxed_accuracy import is_relaxed_match


class ChartQA(HubSet):
    """Questions on charts from four websites, half of them written by people and half made from captions.

    Set      Masry et al., Findings of ACL 2022, arXiv:2203.10244; 2,500 questions of the test split, kinds are the
             halves
    Prompt   the question and the instruction of lmms-eval's task `chartqa`
    Score    relaxed accuracy: a number within 5 %, any other answer exactly, whatever the case
    Metrics  the mean over all questions, and over each half
    Differs  nothing known
    """

    title = "ChartQA"
    metric = "relaxed accuracy"
    repository = "lmms-lab-encoder/ChartQA"
    revision = "9e63b7df1592a1c2158e735cc1725454aef0d6d9"
    split = "test"
    columns = ("question", "answer", "type")
    kind_column = "type"
    first_kinds = ("human_test", "augmented_test")
    instruction = "Answer the question with a single word."

    def score(self, answer: str, truth: str) -> float:
        return float(is_relaxed_match(answer, truth))
