"""ROUGE-L: how much of a caption stands in people's captions in the same order."""

from __future__ import annotations

from collections.abc import Sequence

from .caption_words import caption_words

BETA = 1.2  # weight of recall, of the COCO evaluation


def rouge_l(caption: str, references: Sequence[str]) -> float:
    """F of the longest common subsequence of words, in [0, 1]; best precision and best recall over the references.

    Lin 2004 as in the COCO evaluation: (1 + b^2) P R / (R + b^2 P) with b = 1.2.
    """
    words = caption_words(caption)
    others = [caption_words(reference) for reference in references]
    lengths = [longest_common(words, other) for other in others]
    if not any(lengths):
        return 0.0
    precision = max(lengths) / len(words)
    recall = max(length / len(other) for length, other in zip(lengths, others, strict=True) if other)
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest subsequence of both.

    >>> longest_common("a dog on the grass".split(), "the dog lies on grass".split())
    3
    """
    above = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for j, other in enumerate(second):
            row.append(above[j] + 1 if word == other else max(above[j + 1], row[j]))
        above = row
    return above[-1]
