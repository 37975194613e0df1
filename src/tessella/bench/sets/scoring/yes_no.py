"""Answers that say yes or no: how they are read, and what is made of many."""

from __future__ import annotations

from collections.abc import Sequence


def read_first_sentence(answer: str) -> str:
    """POPE's reading: "no" if the first sentence has the word No, no or not, otherwise "yes", whatever it says.

    >>> [read_first_sentence(a) for a in ("No, there is none.", "Yes. It is not far.", "a dog")]
    ['no', 'yes', 'yes']
    """
    words = answer.split(".")[0].replace(",", "").split()
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def read_first_letters(answer: str) -> str:
    """MME's reading: "yes" or "no" if the first four characters hold it, a letter y or n alone too; else "other".

    >>> [read_first_letters(a) for a in ("Yes, it is", "n", "it is a dog", "nope")]
    ['yes', 'no', 'other', 'no']
    """
    text = answer.lower().strip().replace(".", "")
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text, "other")
    return next((word for word in ("yes", "no") if word in text[:4]), "other")


def polar_metrics(pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """Accuracy; precision, recall and F1 of "yes"; the share of yes. Pairs are (said, true), at least one of them.

    What is not defined, as precision without a yes, is 0.
    """
    yes = sum(said == "yes" for said, _ in pairs)
    there = sum(true == "yes" for _, true in pairs)
    hits = sum(said == true == "yes" for said, true in pairs)
    precision, recall = (hits / n if n else 0.0 for n in (yes, there))
    return {
        "accuracy": sum(said == true for said, true in pairs) / len(pairs),
        "precision": precision,
        "recall": recall,
        "F1": 2 * precision * recall / (precision + recall) if hits else 0.0,
        "yes rate": yes / len(pairs),
    }
