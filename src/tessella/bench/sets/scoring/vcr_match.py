"""VCR: the part of an answer that restores a hidden text best, and how well it does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from difflib import SequenceMatcher

Tokenizer = Callable[[str], list[str]]

_CJK = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_ENGLISH = re.compile(r"\w+(?:[-'\u2019]\w+)*|[^\w\s]")
_CHINESE = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s]")
_JOINTS = {"en": " ", "zh": ""}


@dataclass(frozen=True)
class Restored:
    """The best window of an answer for one hidden text. All numbers are in [0, 1]; no window: no text and zeros.

    `similarity` is of characters, as `difflib` counts it; the others are of sets of tokens, so that a word that is
    repeated counts once.
    """

    text: str = ""
    similarity: float = 0.0
    precision: float = 0.0
    recall: float = 0.0
    f1: float = 0.0
    jaccard: float = 0.0
    exact: bool = False


def tokenize(text: str, language: str) -> list[str]:
    """Words and single punctuation marks; for "zh" each Chinese character is a token of its own.

    Differs: the authors use spaCy's models, which split contractions and hyphenated words and join Chinese characters
    to words. A regular expression needs no models and is the same on every machine.

    >>> tokenize("the well-known Arc, 1806", "en"), tokenize("巴黎2024年", "zh")
    (['the', 'well-known', 'Arc', ',', '1806'], ['巴', '黎', '2024', '年'])
    """
    return (_CHINESE if language == "zh" else _ENGLISH).findall(text)


def restore(answer: str, hidden: str, language: str, split: Tokenizer | None = None) -> Restored:
    """The window of an answer that is most like a hidden text (arXiv:2406.06462 and its evaluation program).

    Windows are as many tokens as the hidden text has and share one with it; the first of equally similar ones stands.
    `split` makes tokens, by default `tokenize`.
    """
    split = split or (lambda text: tokenize(text, language))
    there, wanted = split(answer), split(hidden)
    shared, best, window = set(wanted), Restored(), []
    for start in range(len(there) - len(wanted) + 1):
        tokens = there[start : start + len(wanted)]
        text = _JOINTS[language].join(tokens)
        if shared.isdisjoint(tokens):
            continue
        similarity = SequenceMatcher(None, text, hidden).ratio()
        if similarity > best.similarity:
            best, window = Restored(text, similarity), tokens
    return _measure(best, window, wanted) if window else best


def _measure(best: Restored, window: list[str], wanted: list[str]) -> Restored:
    given, true = set(window), set(wanted)
    common = len(given & true)
    precision, recall = common / len(given), common / len(true)
    return Restored(
        text=best.text,
        similarity=best.similarity,
        precision=precision,
        recall=recall,
        f1=2 * precision * recall / (precision + recall),
        jaccard=common / len(given | true),
        exact=window == wanted,
    )
