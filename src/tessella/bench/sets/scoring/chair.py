"""CHAIR: objects that a caption names and the picture does not have."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from .caption_words import caption_words
from .coco_objects import LONGEST, NAMED


@dataclass(frozen=True)
class Chair:
    """Shares in [0, 1]: of all objects named (`instances`), of all captions with at least one (`sentences`)."""

    instances: float
    sentences: float


def named_objects(caption: str) -> list[str]:
    """The COCO classes that a caption names, in its order, as often as it names them.

    The longest phrase counts: a teddy bear is no bear, a train track no train, a baby elephant no person.

    >>> named_objects("Two men and a baby elephant near a hot dog stand")
    ['person', 'elephant', 'hot dog']
    """
    words = caption_words(caption.replace("-", " "))
    found, at = [], 0
    while at < len(words):
        phrases = (" ".join(words[at : at + num]) for num in range(min(LONGEST, len(words) - at), 0, -1))
        phrase = next((p for p in phrases if p in NAMED), words[at])
        name = NAMED.get(phrase)
        if name is not None:
            found.append(name)
        at += len(phrase.split())
    return found


def chair(captions: Sequence[str], objects: Sequence[Collection[str]]) -> Chair:
    """CHAIR of captions against the classes that their pictures have (arXiv:1809.02156); 0 where no object is named."""
    named = [named_objects(caption) for caption in captions]
    wrong = [sum(name not in there for name in names) for names, there in zip(named, objects, strict=True)]
    total = sum(map(len, named))
    return Chair(sum(wrong) / total if total else 0.0, sum(map(bool, wrong)) / len(wrong) if wrong else 0.0)
