"""Which option an answer names first: the rule of Video-MME."""

from __future__ import annotations

import re

_PHRASES = re.compile(r"the (best|correct) (answer|option) is|the answer( is)?|(best )?(answer|option):", re.IGNORECASE)


def first_letter(answer: str, letters: str) -> str | None:
    """The first of the capital `letters` in an answer, after phrases like "The best answer is"; None without one.

    Differs: in the authors' list of phrases two commas are missing, so that "Best answer: C" names B.

    >>> first_letter("Best answer: (C) a boat", "ABCD"), first_letter("a boat", "ABCD")
    ('C', None)
    """
    found = re.search(f"[{letters}]", _PHRASES.sub("", answer))
    return found[0] if found else None
