"""The VQA accuracy, and the spelling that it compares, by hand."""

from __future__ import annotations

import pytest

from tessella.bench.sets.scoring.vqa_accuracy import CONTRACTIONS, normalize_answer, split_words, vqa_accuracy


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Dog.", "dog"),
        ("an apple\nand a\tpear", "apple and pear"),
        ("two", "2"),
        ("none", "0"),
        ("blue/white", "blue white"),  # a mark between letters is a space
        ("hi, there", "hi there"),  # beside a space it is nothing
        ("1,000", "1000"),  # with a comma in a number all marks are nothing
        ("1,000 x-ray", "1000 xray"),
        ("3.50", "3.50"),  # a period in front of a digit stays
        ("u.s.a.", "usa"),
        ("dont", "don't"),
        ("it's", "it's"),  # an apostrophe is no punctuation
        ("id've", "id've"),  # known to the official table with a capital only, which never comes
        ("lets", "lets"),  # no entry
        ("somebody'd", "somebodyd"),
        ("", ""),
    ],
)
def test_answers_are_spelled_alike(text, normal):
    assert normalize_answer(text) == normal


def test_contractions_are_those_of_the_official_table():
    # of its 120 entries 4 with a capital I never apply, and 2 map a word to itself
    assert len(CONTRACTIONS) == 114
    assert CONTRACTIONS["couldn'tve"] == CONTRACTIONS["couldnt've"] == "couldn't've"
    assert CONTRACTIONS["ow's'at"] == CONTRACTIONS["'ows'at"] == CONTRACTIONS["'ow'sat"] == "'ow's'at"
    assert "couldntve" not in CONTRACTIONS


@pytest.mark.parametrize(("matches", "accuracy"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_accuracy_over_ten_people(matches, accuracy):
    # of 2 who agree, each is left out once: 8 times 2 others match, 2 times 1 does: (8 * 2/3 + 2 * 1/3) / 10 = 0.6
    people = ["Two"] * matches + ["three"] * (10 - matches)
    assert vqa_accuracy("the 2", people) == pytest.approx(accuracy)


def test_an_answer_of_nobody():
    assert vqa_accuracy("2", []) == 0.0


def test_text_is_split_as_textvqa_does_it():
    assert split_words("Joe's, bar?") == "joe 's bar"
    assert split_words(" 3,5 ") == "35"
