"""ANLS: how near an answer is to the nearest of several true ones, by edit distance; 0 where it is too far from all."""

from __future__ import annotations

from collections.abc import Sequence

THRESHOLD = 0.5  # least similarity that counts


def anls(answer: str, truths: Sequence[str]) -> float:
    """Similarity to the nearest truth, 1 - distance / longer length, or 0 below the threshold; in {0} or [0.5, 1].

    Case and runs of white space do not count. Of the two definitions in use this is that of the challenge's evaluation
    program (RRC task 17), which lmms-eval follows: a similarity of exactly the threshold counts, where the formula of
    the paper (arXiv:1907.00490) gives 0, and lengths are those of the texts as written.

    >>> anls("ITC Limted", ["itc limited"])
    0.9090909090909091
    """
    similarity = max(1 - _distance_share(answer, truth) for truth in truths)
    return similarity if similarity >= THRESHOLD else 0.0


def edit_distance(first: str, second: str) -> int:
    """Least number of insertions, deletions and substitutions of characters that turn one text into the other.

    >>> edit_distance("kitten", "sitting")
    3
    """
    above = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        row = [i]
        for j, b in enumerate(second, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
        above = row
    return above[-1]


def _distance_share(answer: str, truth: str) -> float:
    longer = max(len(answer), len(truth))
    return edit_distance(_plain(answer), _plain(truth)) / longer if longer else 0.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
