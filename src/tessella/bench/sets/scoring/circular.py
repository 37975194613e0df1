"""MMBench's circular evaluation: a question counts as right if it is under every rotation of its options."""

from __future__ import annotations

from collections.abc import Iterable


def circular_accuracy(answers: Iterable[tuple[int, int, float]]) -> float | None:
    """The share of questions that are right in all rotations, from (question, number of rotations, right or not).

    Questions with fewer answers than rotations are left out; None if no question is left.

    >>> circular_accuracy([(7, 2, 1.0), (7, 2, 1.0), (8, 2, 1.0), (8, 2, 0.0), (9, 3, 1.0)])
    0.5
    """
    found: dict[int, list[float]] = {}
    expected: dict[int, int] = {}
    for question, rotations, right in answers:
        found.setdefault(question, []).append(right)
        expected[question] = rotations
    whole = [all(of) for question, of in found.items() if len(of) == expected[question]]
    return sum(whole) / len(whole) if whole else None
