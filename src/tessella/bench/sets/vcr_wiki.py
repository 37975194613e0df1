"""VCR-wiki: restore the words of a caption of which a white bar has left slivers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...core.errors import InputError
from ..task import Answered
from .loading import HubSet, Row
from .local import Source
from .scoring.vcr_match import Restored, restore

PROMPTS = {
    "en": "What is the covered texts in the image? "
    "Please restore the covered texts without outputting the explanations.",
    "zh": "图像中被覆盖的文本是什么？请在不输出解释的情况下还原被覆盖的文本。",  # noqa: RUF001
}


@dataclass(frozen=True)
class VCRWiki(HubSet):
    """Pictures from Wikipedia over their captions, in which runs of five words are covered but for slivers.

    Set      Zhang et al., ICLR 2025, arXiv:2406.06462; the 5,000 pictures of a test split, in one of two languages and
             of two heights of the bar
    Prompt   that of lmms-eval's tasks `vcr_wiki_*`
    Score    the share of a picture's hidden texts that the answer restores exactly
    Metrics  exact match and Jaccard index of the best windows, over all hidden texts
    Differs  tokens are made without spaCy (`vcr_match.tokenize`), and an answer that looks like a refusal is scored
             like any other. No commit of the repositories is frozen: the digest of the rows in `facts` tells one from
             another
    """

    language: str = "en"  # or "zh"
    hard: bool = False  # a higher bar

    title = "VCR-wiki"
    metric = "exact match"
    max_new_tokens = 120
    repository = "vcr-org/VCR-wiki-en-easy-test"
    revision = "main"
    split = "test"
    columns = ("crossed_text",)
    pictures = ("stacked_image",)

    def __post_init__(self) -> None:
        if self.language not in PROMPTS:
            raise InputError(f"{self.title}: language must be {' or '.join(PROMPTS)}; got {self.language!r}.")

    @property
    def source(self) -> Source:
        repository = f"vcr-org/VCR-wiki-{self.language}-{'hard' if self.hard else 'easy'}-test"
        return Source(repository, self.revision, self.config, self.split)

    def prompt(self, row: Row) -> str:
        return PROMPTS[self.language]

    def truth(self, row: Row) -> str:
        return json.dumps(list(row["crossed_text"]), ensure_ascii=False)

    def score(self, answer: str, truth: str) -> float:
        return float(np.mean([one.exact for one in self._restored(answer, truth)]))

    def metrics(self, answers: Sequence[Answered]) -> dict[str, float]:
        every = [one for a in answers for one in self._restored(a.answer, a.truth)]
        if not every:
            return {}
        return {
            "exact match": float(np.mean([one.exact for one in every])),
            "Jaccard": float(np.mean([one.jaccard for one in every])),
        }

    def _restored(self, answer: str, truth: str) -> list[Restored]:
        return [restore(answer, hidden, self.language) for hidden in json.loads(truth)]
