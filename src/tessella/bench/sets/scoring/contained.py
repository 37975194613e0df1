"""Whether an answer contains a true one: the rule of OCRBench."""

from __future__ import annotations

from collections.abc import Sequence


def contains_truth(answer: str, truths: Sequence[str], formula: bool = False) -> bool:
    r"""Whether one of the truths is part of an answer (arXiv:2305.07895 and its evaluation program).

    Case does not count and a line break is a space. In a `formula` case counts and spaces do not, so that LaTeX may be
    set out in any way.

    >>> contains_truth("It says CENTRE.", ["centre"])
    True
    >>> contains_truth(r"\frac{a}{b}", [r"\frac { a } { b }"], formula=True)
    True
    """
    plain = _plain_formula if formula else _plain
    return any(plain(truth) in plain(answer) for truth in truths)


def _plain(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _plain_formula(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")
