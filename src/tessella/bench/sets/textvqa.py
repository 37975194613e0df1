"""TextVQA: questions whose answers have to be read in the picture."""

from __future__ import annotations

import json
from dataclasses import dataclass

from .loading import HubSet, Row
from .scoring.vqa_accuracy import split_words, vqa_accuracy


@dataclass(frozen=True)
class TextVQA(HubSet):
    """Questions on text in Open Images photographs, each answered by ten people.

    Set      Singh et al., CVPR 2019, arXiv:1904.08920; 5,000 questions of the validation split
    Prompt   the question with a capital first and small letters behind, and LLaVA-1.5's short-answer instruction, as
             lmms-eval's task `textvqa_val` has it. With `ocr`, a line of the set's own OCR tokens stands between: what
             LLaVA-1.5's published number was measured with
    Score    the VQA accuracy over ten people, after the splitting of words of TextVQA's own evaluation
    Differs  nothing known
    """

    ocr: bool = False  # show the tokens that an OCR system found

    title = "TextVQA"
    metric = "VQA accuracy"
    repository = "lmms-lab-encoder/textvqa"
    revision = "9c0699cd19768ac5ab97568f6b3cbac4c0062884"
    split = "validation"
    columns = ("question", "answers", "ocr_tokens")

    def prompt(self, row: Row) -> str:
        hint = f"\nReference OCR token: {', '.join(row['ocr_tokens'])}" if self.ocr else ""
        return f"{row['question'].capitalize()}{hint}\n{self.instruction}"

    def truth(self, row: Row) -> str:
        return json.dumps(list(row["answers"]))

    def score(self, answer: str, truth: str) -> float:
        return vqa_accuracy(split_words(answer), [split_words(theirs) for theirs in json.loads(truth)])
