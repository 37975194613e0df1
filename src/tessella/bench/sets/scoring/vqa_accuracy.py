"""The VQA accuracy: how many of ten people gave an answer, after spellings are made alike."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean

NUMBERS = {
    word: str(n)
    for n, word in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"))
} | {"none": "0"}
ARTICLES = ("a", "an", "the")
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
# contractions that the official evaluation restores where an apostrophe was left out; as the text is in lower case by
# then, its entries for "I'm" and the like never apply
_WHOLE = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = {short: word for word in _WHOLE.split() for short in _without_one_apostrophe(word)}
CONTRACTIONS["somebody'd"] = "somebodyd"  # sic


def normalize_answer(text: str) -> str:
    """An answer as the official evaluation compares it: lower case, no punctuation or articles, numbers as digits.

    A mark becomes a space between letters ("blue/white") and nothing beside a space; all of them become nothing in a
    text with a comma between digits ("1,000"). Periods in front of a digit stay.

    >>> normalize_answer("The two blue/white dogs, dont ask.")
    "2 blue white dogs don't ask"
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    bare = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        bare = bare.replace(mark, "" if beside_space or _COMMA_IN_NUMBER.search(text) else " ")
    words = (NUMBERS.get(word, word) for word in _PERIOD.sub("", bare).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def split_words(text: str) -> str:
    """What TextVQA's evaluation does first: lower case, no commas or question marks, a word of its own for 's."""
    return text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """The mean over people of min(1, matches among the others / 3), in [0, 1]; 0 if nobody answered.

    With ten people, of whom k gave the answer: 0.3 for k = 1, 0.6 for 2, 0.9 for 3 and 1 from 4 on.
    """
    if not people:
        return 0.0
    mine = normalize_answer(answer)
    same = [normalize_answer(theirs) == mine for theirs in people]
    matches = sum(same)
    return fmean(min(1.0, (matches - own) / 3) for own in same)
