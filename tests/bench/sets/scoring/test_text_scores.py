"""Scores of an answer's text against hand-worked cases: ChartQA's, DocVQA's and OCRBench's."""

from __future__ import annotations

import pytest

from tessella.bench.sets.scoring.anls import anls, edit_distance
from tessella.bench.sets.scoring.contained import contains_truth
from tessella.bench.sets.scoring.relaxed_accuracy import is_relaxed_match


@pytest.mark.parametrize(
    "answer, truth, right",
    [
        ("105", "100", True),  # 5 / 100 = the tolerance
        ("105.1", "100", False),
        ("-95", "-100", True),
        ("95", "-100", False),
        ("0.31", "30%", True),  # 0.01 / 0.30 = 3.3 %
        ("30", "30%", False),
        ("0", "0", True),  # text
        ("0.0", "0", False),  # text, for lack of a relative tolerance
        ("1,000", "1000", False),  # text
        (" Yes ", "yes", True),
        ("yes it is", "yes", False),
        ("nan", "3", False),
    ],
)
def test_relaxed_accuracy(answer: str, truth: str, right: bool) -> None:
    assert is_relaxed_match(answer, truth) is right


@pytest.mark.parametrize(
    "answer, truths, score",
    [
        ("12 Main St", ["12 main  st"], 1.0),  # case and white space
        ("cat", ["cut"], 1 - 1 / 3),
        ("cat", ["dog", "cart"], 1 - 1 / 4),  # the nearest truth
        ("ab", ["ac"], 0.5),  # the threshold itself counts
        ("abc", ["acd"], 0.0),  # distance 2 of 3: below the threshold
        ("", ["x"], 0.0),
        ("", [""], 1.0),
        ("a  b", ["a b"], 1.0),
    ],
)
def test_anls(answer: str, truths: list[str], score: float) -> None:
    assert anls(answer, truths) == pytest.approx(score)


def test_the_length_in_anls_is_of_the_text_as_written() -> None:
    # "a    b" is 6 characters, of which the distance between "a b" and "a c", 1, is taken: 1 - 1/6, not 1 - 1/3
    assert anls("a c", ["a    b"]) == pytest.approx(5 / 6)


@pytest.mark.parametrize("first, second, distance", [("", "abc", 3), ("flaw", "lawn", 2), ("abc", "abc", 0)])
def test_edit_distance(first: str, second: str, distance: int) -> None:
    assert edit_distance(first, second) == edit_distance(second, first) == distance


@pytest.mark.parametrize(
    "answer, truths, formula, right",
    [
        ("The word is CENTRE", ["centre"], False, True),
        ("cen tre", ["centre"], False, False),
        ("12\n34", ["12 34"], False, True),  # a line break is a space
        ("blue", ["red", "blue "], False, True),
        (r"$ \frac { x } { 2 } $", [r"\frac{x}{2}"], True, True),
        ("X+1", ["x + 1"], True, False),  # case counts in a formula
        ("x+1", ["x + 1"], True, True),
    ],
)
def test_containing_a_truth(answer: str, truths: list[str], formula: bool, right: bool) -> None:
    assert contains_truth(answer, truths, formula) is right
