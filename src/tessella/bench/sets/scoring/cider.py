"""CIDEr-D: how much captions share with those that people wrote of the same pictures, rare phrases counting more."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from ....core.errors import InputError
from .caption_words import caption_words

ORDERS = (1, 2, 3, 4)  # n: phrases of so many words
SIGMA = 6.0  # words by which lengths may differ before it costs much

Phrase = tuple[str, ...]


def cider_d(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each caption against its picture's references, in [0, 10]; their mean is the number that is published.

    arXiv:1411.5726, section 4 and 8, as in the COCO evaluation: for each n the cosine of two vectors of phrase counts
    weighted by how few pictures' references have the phrase, counts of the caption cut to those of the reference, times
    a penalty of the difference in length; the mean over n and references, times 10. The weights depend on all pictures
    that are given: the official number needs the whole split, and for a single picture all weights are 0.

    Raises InputError for unequal numbers of both, or a picture without references.
    """
    if len(captions) != len(references) or not all(references):
        raise InputError(
            f"CIDEr needs one or more references for each caption; got {len(captions)} captions and references for "
            f"{sum(map(bool, references))} pictures."
        )
    counted = [[_count(text) for text in texts] for texts in references]
    seen_in = Counter(phrase for texts in counted for phrase in set().union(*texts))
    weights = {phrase: math.log(len(counted) / num) for phrase, num in seen_in.items()}
    unseen = math.log(len(counted)) if counted else 0.0  # as if one picture's references had it
    return [
        10 * float(np.mean([_similarity(_count(caption), text, weights, unseen) for text in texts]))
        for caption, texts in zip(captions, counted, strict=True)
    ]


def _count(text: str) -> Counter[Phrase]:
    words = caption_words(text)
    return Counter(tuple(words[i : i + n]) for n in ORDERS for i in range(len(words) - n + 1))


def _similarity(
    caption: Counter[Phrase], reference: Counter[Phrase], weights: Mapping[Phrase, float], unseen: float
) -> float:
    lengths = [sum(num for phrase, num in text.items() if len(phrase) == 1) for text in (caption, reference)]
    penalty = math.exp(-((lengths[0] - lengths[1]) ** 2) / (2 * SIGMA**2))
    cosines = []
    for n in ORDERS:
        given, true = (
            {p: num * weights.get(p, unseen) for p, num in text.items() if len(p) == n} for text in (caption, reference)
        )
        norms = _norm(given.values()) * _norm(true.values())
        common = sum(min(weight, true[p]) * true[p] for p, weight in given.items() if p in true)
        cosines.append(common / norms if norms else 0.0)
    return penalty * float(np.mean(cosines))


def _norm(values: Iterable[float]) -> float:
    return math.sqrt(sum(v * v for v in values))
