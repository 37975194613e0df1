"""Which option of a multiple-choice question an answer names."""

from __future__ import annotations

import re
from collections.abc import Mapping

_LETTER_FIRST = re.compile(r"([A-Z])(\.|$)")
_SENTENCE = re.compile(r"The answer is ([A-Z])\.")


def read_letter(answer: str) -> str | None:
    """The letter that an answer is, starts with ("B. cat") or states in "The answer is B."; None if there is none.

    The rule of LLaVA's evaluation on ScienceQA; a lone letter may be small.

    >>> [read_letter(a) for a in ("b", "B. cat", "The answer is B.", "Because", "The answer is A. The answer is B.")]
    ['B', 'B', 'B', None, None]
    """
    text = answer.strip()
    if len(text) == 1 and text.isalpha():
        return text.upper()
    first = _LETTER_FIRST.match(text)
    if first:
        return first[1]
    stated = set(_SENTENCE.findall(text))
    return stated.pop() if len(stated) == 1 else None


def match_option(answer: str, options: Mapping[str, str]) -> str | None:
    """The letter of the one option that an answer names: by its letter, else by its text; None if none or several.

    A letter stands alone, bare or with marks ("B", "(B)", "B."). A bare A in an answer of more than three words is an
    article. By text: exactly one option is contained in the answer, whatever the case.

    >>> pets = {"A": "dog", "B": "cat"}
    >>> [match_option(a, pets) for a in ("B", "(B) cat", "It is a cat.", "A cat sits there", "A or B")]
    ['B', 'B', 'B', 'B', None]
    """
    words = answer.split()
    letters = {bare for word in words if (bare := word.strip("().,:")) in options}
    if len(words) > 3 and "A" in words:
        letters.discard("A")
    if len(letters) == 1:
        return letters.pop()
    told = [letter for letter, text in options.items() if text.lower() in answer.lower()]
    return told[0] if len(told) == 1 else None
