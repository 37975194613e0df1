"""POPE: is an object in the picture? Absent ones are drawn at random, by how common or how likely beside others."""

from __future__ import annotations

from collections.abc import Sequence

from ..task import Answered
from .loading import HubSet, Row
from .scoring.yes_no import polar_metrics, read_first_sentence


class POPE(HubSet):
    """Yes/no questions on objects in COCO val2014, half of them with the answer yes.

    Set      Li et al., EMNLP 2023, arXiv:2305.10355; 3 x 3,000 questions, kinds are its three splits
    Prompt   the question and LLaVA-1.5's short-answer instruction, as lmms-eval's task `pope` has it
    Score    accuracy; an answer is read by the rule of the authors' evaluation: its first sentence says no if it has
             the word "No", "no" or "not", and yes otherwise
    Metrics  accuracy, precision, recall and F1 of "yes", and the share of answers that say yes, of each split; first
             their means over splits, which is how papers report POPE
    Differs  lmms-eval compares the whole answer with the truth and pools the splits; answers of one word score alike
    """

    title = "POPE"
    repository = "lmms-lab-encoder/POPE"
    revision = "4db1276663dfa5eb8ad16a52d24c31a09e470896"
    split = "test"
    columns = ("question", "answer", "category")
    kind_column = "category"
    first_kinds = ("random", "popular", "adversarial")

    def truth(self, row: Row) -> str:
        return str(row["answer"]).strip().lower()

    def score(self, answer: str, truth: str) -> float:
        return float(read_first_sentence(answer) == truth)

    def metrics(self, answers: Sequence[Answered]) -> dict[str, float]:
        said: dict[str, list[tuple[str, str]]] = {}
        for a in answers:
            said.setdefault(a.kind, []).append((read_first_sentence(a.answer), a.truth))
        splits = {kind: polar_metrics(pairs) for kind, pairs in said.items()}
        names = list(next(iter(splits.values()), {}))
        means = {name: sum(of[name] for of in splits.values()) / len(splits) for name in names}
        return means | {f"{name}, {kind}": value for kind, of in splits.items() for name, value in of.items()}
