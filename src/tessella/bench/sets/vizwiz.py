"""VizWiz: questions that blind people asked about pictures they took; many cannot be answered."""

from __future__ import annotations

import json

from .loading import SHORT_ANSWER, HubSet, Row
from .scoring.vqa_accuracy import vqa_accuracy

UNANSWERABLE = "unanswerable"


class VizWiz(HubSet):
    """Photographs with spoken questions, each answered by ten people.

    Set      Gurari et al., CVPR 2018, arXiv:1802.08218; 4,319 questions of the validation split. Kinds are our own: a
             question is unanswerable where that is the most frequent answer, in the order of the set among equals
    Prompt   the question with a capital first and small letters behind, LLaVA-1.5's line on what to say where
             the picture does not tell, and its short-answer instruction, as lmms-eval's task `vizwiz_vqa_val` has them
    Score    the VQA accuracy over ten people; metrics: its mean over all questions, and over each kind
    Differs  the second task of the challenge, to predict answerability, needs a confidence and is left out; lmms-eval
             splits words as TextVQA does before it compares
    """

    title = "VizWiz-VQA"
    metric = "VQA accuracy"
    repository = "lmms-lab-encoder/VizWiz-VQA"
    revision = "d428a2dae984f79cf1b9d99467dfa883e0c30686"
    split = "val"
    columns = ("question", "answers")
    first_kinds = ("answerable", UNANSWERABLE)
    instruction = f"When the provided information is insufficient, respond with 'Unanswerable'.\n{SHORT_ANSWER}"

    def kind(self, row: Row) -> str:
        most = max(row["answers"], key=row["answers"].count, default="")
        return UNANSWERABLE if most == UNANSWERABLE else "answerable"

    def prompt(self, row: Row) -> str:
        return f"{row['question'].capitalize()}\n{self.instruction}"

    def truth(self, row: Row) -> str:
        return json.dumps(list(row["answers"]))

    def score(self, answer: str, truth: str) -> float:
        return vqa_accuracy(answer, json.loads(truth))
