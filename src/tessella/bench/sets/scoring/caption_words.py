"""A caption as the words that caption metrics count."""

from __future__ import annotations

import re

_WORD = re.compile(r"\bn't\b|[a-z0-9]+(?:[-.,&][a-z0-9]+)*|'(?:s|re|ve|ll|d|m)\b|[$#%&@]")
_NOT = re.compile(r"(?<=[a-z])n't\b")


def caption_words(caption: str) -> list[str]:
    """Words in lower case without punctuation; "'s" and "n't" are words of their own.

    The COCO evaluation does this with Stanford's PTB tokenizer, which needs Java. These are its rules for what captions
    have: hyphenated words and numbers stay whole, contractions are split, punctuation marks go. Differs: accents,
    abbreviations with dots, words joined by a slash and irregular contractions ("gonna").

    >>> caption_words("A man's T-shirt isn't red, white & blue.")
    ['a', 'man', "'s", 't-shirt', 'is', "n't", 'red', 'white', '&', 'blue']
    """
    return _WORD.findall(_NOT.sub(" n't", caption.lower().replace("\u2019", "'")))
