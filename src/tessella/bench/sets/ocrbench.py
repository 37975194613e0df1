"""OCRBench: a thousand questions that need reading, in ten types, worth a point each."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from ..task import Answered
from .loading import HubSet, Row
from .scoring.contained import contains_truth

# questions of each type in the published set; the first six together are text recognition
POINTS = {
    "Regular Text Recognition": 50,
    "Irregular Text Recognition": 50,
    "Artistic Text Recognition": 50,
    "Handwriting Recognition": 50,
    "Digit String Recognition": 50,
    "Non-Semantic Text Recognition": 50,
    "Scene Text-centric VQA": 200,
    "Doc-oriented VQA": 200,
    "Key Information Extraction": 200,
    "Handwritten Mathematical Expression Recognition": 100,
}
FORMULAS = "HME100k"  # the source whose answers are LaTeX


class OCRBench(HubSet):
    """Questions on words, signs, documents, receipts and formulas from 29 older sets.

    Set      Liu et al., Science China Information Sciences 2024, arXiv:2305.07895; 1,000 questions, kinds are its types
    Prompt   the question alone, as lmms-eval's task `ocrbench` has it
    Score    1 where the answer contains a true one, by the rule of the authors' evaluation (`contains_truth`)
    Metrics  the score of 1,000 points; and the share of right answers of each type
    Differs  where fewer questions are asked, each type counts by its share of right ones, and types that were not asked
             count for nothing, so that the score remains one of 1,000. lmms-eval also folds full-width characters
    """

    title = "OCRBench"
    max_new_tokens = 128
    repository = "echo840/OCRBench"
    revision = "92a54bd1384387c178d5a07140a2d85e0a3d12e1"
    split = "test"
    columns = ("dataset", "question", "question_type", "answer")
    kind_column = "question_type"
    first_kinds = tuple(POINTS)

    def prompt(self, row: Row) -> str:
        return str(row["question"]).strip()

    def truth(self, row: Row) -> str:
        return json.dumps({"answers": list(row["answer"]), "formula": row["dataset"] == FORMULAS})

    def score(self, answer: str, truth: str) -> float:
        true = json.loads(truth)
        return float(contains_truth(answer, true["answers"], true["formula"]))

    def metrics(self, answers: Sequence[Answered]) -> dict[str, float]:
        kinds = [kind for kind in POINTS if any(a.kind == kind for a in answers)]
        shares = {kind: float(np.mean([a.score for a in answers if a.kind == kind])) for kind in kinds}
        if not shares:
            return {}
        total = 1000 * sum(POINTS[kind] * share for kind, share in shares.items()) / sum(POINTS[kind] for kind in kinds)
        return {"OCRBench": total, **{f"{self.metric}, {kind}": share for kind, share in shares.items()}}
