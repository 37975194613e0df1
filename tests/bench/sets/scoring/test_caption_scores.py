"""CIDEr-D and ROUGE-L of captions against cases worked out by hand, and the words they count."""

from __future__ import annotations

import math

import pytest

from tessella.bench.sets.scoring.caption_words import caption_words
from tessella.bench.sets.scoring.cider import cider_d
from tessella.bench.sets.scoring.rouge_l import longest_common, rouge_l
from tessella.core.errors import InputError


@pytest.mark.parametrize(
    "caption, words",
    [
        ("Two dogs, one red-brown; one black.", ["two", "dogs", "one", "red-brown", "one", "black"]),
        ("It's 1,000 $ & doesn’t end...", ["it", "'s", "1,000", "$", "&", "does", "n't", "end"]),  # noqa: RUF001
        ('A "STOP" sign (old)!', ["a", "stop", "sign", "old"]),
        ("", []),
    ],
)
def test_words(caption: str, words: list[str]) -> None:
    assert caption_words(caption) == words


class TestCider:
    """Two pictures; every phrase is in the references of one, so that all weights are log 2 and cancel out."""

    def test_the_same_text(self) -> None:
        # cosines: 1 for one word, 1 for two, no phrases of three or four: (1 + 1 + 0 + 0) / 4 * 10
        assert cider_d(["a b", "x"], [["a b"], ["c"]]) == pytest.approx([5, 0])

    def test_a_repeated_word_is_counted_as_often_as_in_the_reference(self) -> None:
        # one word: min(2, 1) * 1 / (2 * sqrt 2) ; two words: "a a" is not in "a b"
        assert cider_d(["a a", "x"], [["a b"], ["c"]])[0] == pytest.approx(10 * (1 / (2 * math.sqrt(2))) / 4)

    def test_a_difference_in_length_costs(self) -> None:
        # 2 words against 8; one word: 2 / (sqrt 2 * sqrt 8) ; two words: 1 / (1 * sqrt 7) ; penalty e^(-36 / 72)
        expected = 10 * math.exp(-0.5) * (0.5 + 1 / math.sqrt(7)) / 4
        assert cider_d(["a b", "x"], [["a b c d e f g h"], ["y"]])[0] == pytest.approx(expected)

    def test_a_word_of_nobody_costs_as_much_as_a_rare_one(self) -> None:
        # one word: 1 / (sqrt 2 * sqrt 2), and nothing longer in common
        assert cider_d(["a z", "x"], [["a b"], ["c"]])[0] == pytest.approx(10 * 0.5 / 4)

    def test_the_mean_over_references(self) -> None:
        assert cider_d(["a b", "x"], [["a b", "d e"], ["c"]])[0] == pytest.approx(2.5)

    def test_a_phrase_of_all_pictures_weighs_nothing(self) -> None:
        # "a" is in both pictures' references; left are "b" and "a b", "c" and "a c": the same phrases as in the caption
        assert cider_d(["a b", "a c"], [["a b"], ["a c"]]) == pytest.approx([5, 5])
        assert cider_d(["a", "a"], [["a b"], ["a c"]]) == [0, 0]

    def test_one_picture_and_none(self) -> None:
        assert cider_d(["a b"], [["a b"]]) == [0]
        assert cider_d([], []) == []
        assert cider_d(["", "x"], [["a b"], ["c"]]) == [0, 0]

    def test_captions_without_references(self) -> None:
        with pytest.raises(InputError, match="got 2 captions and references for 1 pictures"):
            cider_d(["a", "b"], [["a"], []])


class TestRouge:
    def test_the_longest_common_subsequence(self) -> None:
        assert longest_common(list("abcbdab"), list("bdcaba")) == 4
        assert longest_common([], ["a"]) == 0
        assert longest_common(["a"], ["a", "a"]) == 1  # a word counts once

    def test_by_hand(self) -> None:
        # "a cat sat" in "a black cat": a, cat; P = 2/3, R = 2/3, so F = 2/3 whatever the weight of recall
        assert rouge_l("a cat sat", ["a black cat"]) == pytest.approx(2 / 3)
        # P = 2/2 from either; R = 2/4: (1 + 1.44) * 1 * 0.5 / (0.5 + 1.44 * 1)
        assert rouge_l("a cat", ["a cat lies there"]) == pytest.approx(2.44 * 0.5 / 1.94)

    def test_best_precision_and_best_recall_may_be_of_different_references(self) -> None:
        # "x y z": P = 2/3 and R = 2/4 of "x y p q", P = 1/3 and R = 1 of "z"
        precision, recall = 2 / 3, 1.0
        expected = 2.44 * precision * recall / (recall + 1.44 * precision)
        assert rouge_l("x y z", ["x y p q", "z"]) == pytest.approx(expected)

    def test_nothing_in_common(self) -> None:
        assert rouge_l("dog", ["a cat"]) == rouge_l("", ["a cat"]) == rouge_l("dog", [""]) == 0
