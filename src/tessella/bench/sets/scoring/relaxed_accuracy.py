"""Relaxed accuracy: a number may be five per cent off, anything else must be the same text."""

from __future__ import annotations

TOLERANCE = 0.05  # of the true number; arXiv:2203.10244, section 5.1, after Methani et al. 2020


def is_relaxed_match(answer: str, truth: str) -> bool:
    """Whether an answer is right: within the tolerance of a true number, else the same text up to case.

    "12%" is 0.12. A truth of 0 leaves no relative tolerance and is compared as text, as in the evaluation of Qwen-VL
    that lmms-eval follows; so is a number with thousands separators.

    >>> is_relaxed_match("104", "100"), is_relaxed_match("106", "100"), is_relaxed_match("Blue", "blue")
    (True, False, True)
    """
    given, true = _number(answer.strip()), _number(truth.strip())
    if given is not None and true:  # a truth of 0 is text
        return abs(given - true) / abs(true) <= TOLERANCE
    return answer.strip().lower() == truth.strip().lower()


def _number(text: str) -> float | None:
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
