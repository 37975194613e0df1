"""Whether two texts are the same but for case, punctuation and spaces."""

from __future__ import annotations

import string

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(answer: str, truth: str) -> float:
    """1 if the texts are the same in lower case, without punctuation and with single spaces, else 0.

    >>> exact_match("Coffee  table.", "coffee table"), exact_match("table", "coffee table")
    (1.0, 0.0)
    """
    return float(_bare(answer) == _bare(truth))


def _bare(text: str) -> str:
    return " ".join(text.lower().translate(_NO_PUNCTUATION).split())
