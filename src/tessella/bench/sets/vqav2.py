"""VQAv2: open questions on COCO pictures, each answered by ten people."""

from __future__ import annotations

import json

from .loading import HubSet, Row
from .scoring.vqa_accuracy import vqa_accuracy


class VQAv2(HubSet):
    """Questions on COCO val2014, balanced so that a question has another answer on a similar picture.

    Set      Goyal et al., CVPR 2017, arXiv:1612.00837; 214,354 questions of the validation split, kinds are the
             answer types of its annotations
    Prompt   the question and LLaVA-1.5's short-answer instruction, as lmms-eval's task `vqav2_val` has it
    Score    the VQA accuracy over ten people; metrics: its mean over questions, and over those of each answer type
    Differs  the official evaluation leaves people's answers as they are where all ten agree; here, as in lmms-eval,
             they are always normalized. The test splits have no public answers, so they are not offered
    """

    title = "VQAv2"
    metric = "VQA accuracy"
    repository = "lmms-lab-encoder/VQAv2"
    revision = "32665d35052eb4a6d4414851c3c829a72754915a"
    split = "validation"
    columns = ("question", "answers", "answer_type")
    kind_column = "answer_type"
    first_kinds = ("yes/no", "number", "other")

    def truth(self, row: Row) -> str:
        return json.dumps([person["answer"] for person in row["answers"]])

    def score(self, answer: str, truth: str) -> float:
        return vqa_accuracy(answer, json.loads(truth))
