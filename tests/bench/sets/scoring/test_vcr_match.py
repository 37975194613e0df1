"""VCR's match against recordings of the authors' code and cases worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tessella.bench.sets.scoring.vcr_match import Restored, restore, tokenize

RECORDED = Path(__file__).parents[1] / "recorded"
FIELDS = {
    "matched": "text",
    "similarity": "similarity",
    "precision": "precision",
    "recall": "recall",
    "f1": "f1",
    "jaccard": "jaccard",
    "exact_match": "exact",
}


@pytest.mark.parametrize("language, num", [("en", 5), ("zh", 3)])
def test_recordings_of_the_authors_code(language: str, num: int) -> None:
    with np.load(RECORDED / f"vcr_match_{language}.npz") as recorded:
        arrays = dict(recorded)
    split = str.split if language == "en" else list
    pairs = zip(arrays["prediction"].tolist(), arrays["hidden"].tolist(), strict=True)
    got = [restore(answer, hidden, language, split) for answer, hidden in pairs]
    assert len(got) == num
    for array, field in FIELDS.items():
        assert [getattr(one, field) for one in got] == arrays[array].tolist()


def test_by_hand() -> None:
    # windows of three: "the tall old", "tall old tower", "old tower stands"; the second is nearest to the hidden text
    got = restore("the tall old tower stands", "tall oak tower", "en")
    assert got.text == "tall old tower"
    assert got.similarity == 2 * 12 / 28  # all of 14 characters but two on either side
    assert (got.precision, got.recall, got.f1, got.jaccard, got.exact) == (2 / 3, 2 / 3, 2 / 3, 2 / 4, False)


def test_the_first_of_equal_windows_and_repeated_words() -> None:
    assert restore("it was it was", "was it", "en").exact
    got = restore("go go home", "go go go", "en")
    assert (got.text, got.jaccard, got.recall, got.precision) == ("go go home", 1 / 2, 1, 1 / 2)


def test_the_order_counts_for_an_exact_match_only() -> None:
    got = restore("door red", "red door", "en")
    assert (got.jaccard, got.exact) == (1, False)


@pytest.mark.parametrize("answer", ["", "short", "three other words here"])
def test_no_window(answer: str) -> None:
    assert restore(answer, "hidden text of five", "en") == Restored()


def test_tokens() -> None:
    assert tokenize("It's the Arc, 1806.", "en") == ["It's", "the", "Arc", ",", "1806", "."]
    assert tokenize("于1806年,巴黎", "zh") == ["于", "1806", "年", ",", "巴", "黎"]
