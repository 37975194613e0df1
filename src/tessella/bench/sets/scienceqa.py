"""ScienceQA-IMG: the questions of school science with a picture."""

from __future__ import annotations

from .loading import LETTER, HubSet, Row
from .scoring.choices import read_letter

LETTERS = "ABCDEFGHIJ"


class ScienceQA(HubSet):
    """Multiple-choice questions from school lessons, those that come with a picture.

    Set      Lu et al., NeurIPS 2022, arXiv:2209.09513; 2,017 questions of the test split, kinds are its subjects
    Prompt   the hint, if there is one, as a line of context; the question; the options, each on a line with its letter;
             LLaVA-1.5's instruction to name a letter, as lmms-eval's task `scienceqa_img` has it
    Score    accuracy; an answer is read by the rule of LLaVA's evaluation (`read_letter`)
    Metrics  accuracy over all questions, and over each subject
    Differs  LLaVA's evaluation takes an answer that names no option for a wrong one, and so does this
    """

    title = "ScienceQA-IMG"
    repository = "lmms-lab-encoder/ScienceQA"
    revision = "69dd4d6b67373d38f96a5badd5d24d0eb5bcdc50"
    config = "ScienceQA-IMG"
    split = "test"
    columns = ("question", "choices", "answer", "hint", "subject")
    kind_column = "subject"
    first_kinds = ("natural science", "social science", "language science")
    instruction = LETTER

    def prompt(self, row: Row) -> str:
        context = [f"Context: {row['hint']}"] if row["hint"] else []
        options = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, row["choices"], strict=False)]
        return "\n".join([*context, row["question"], *options, self.instruction])

    def truth(self, row: Row) -> str:
        return LETTERS[row["answer"]]

    def score(self, answer: str, truth: str) -> float:
        return float(read_letter(answer) == truth)
