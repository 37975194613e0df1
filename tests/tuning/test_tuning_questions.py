"""Samples as a task: which are searched on, and what counts as right."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

import tessella
from tessella.core.errors import InputError
from tessella.samples import Sample, load_samples
from tessella.tuning.questions import MIN_SAMPLES, OwnQuestions, check_samples, divide_samples


@pytest.fixture(scope="module")
def drawn() -> list[Sample]:
    return load_samples("mini:48")


def test_both_halves_hold_half_of_each_kind(drawn: list[Sample]) -> None:
    search, held_out = divide_samples(drawn, seed=0)
    assert sorted(search + held_out) == list(range(48))
    for half in (search, held_out):
        assert set(Counter(drawn[n].kind for n in half).values()) == {3}
        assert {drawn[n].kind for n in half[:8]} == {s.kind for s in drawn}
    assert divide_samples(drawn, seed=0) == (search, held_out)
    assert divide_samples(drawn, seed=1) != (search, held_out)


def test_kinds_of_one_sample_are_shared_out(drawn: list[Sample]) -> None:
    alone = [replace(s, kind=f"kind {n}") for n, s in enumerate(drawn[:MIN_SAMPLES])]
    search, held_out = divide_samples(alone, seed=0)
    assert (len(search), len(held_out)) == (20, 20)


def test_samples_that_cannot_be_used(drawn: list[Sample]) -> None:
    with pytest.raises(InputError, match=r"tuning needs at least 40 samples, .* on the others; got 39\."):
        check_samples(drawn[:39])
    lacking = [*drawn[:40], replace(drawn[40], answer=None), replace(drawn[41], answer=None)]
    with pytest.raises(InputError, match=r"2 of 42 samples have no answer, the first is number 41\."):
        check_samples(lacking)
    with pytest.raises(InputError, match=r"1 of 41 samples have no picture, the first is number 41\."):
        check_samples([*drawn[:40], replace(drawn[40], images=())])


def test_the_task_asks_by_the_place_of_a_sample(drawn: list[Sample]) -> None:
    task = OwnQuestions([*drawn[:39], replace(drawn[39], kind=None)], tessella.load("mini")[1])
    asked = task.ask([39, 0])
    assert [(a.kind, a.number, a.truth) for a in asked] == [
        ("all", 39, drawn[39].answer), (drawn[0].kind, 0, drawn[0].answer)
    ]  # fmt: skip
    assert asked[1].parts == (drawn[0].images[0], drawn[0].question)
    assert task.max_new_tokens == 5  # the longest of these answers has four
    assert "all" in task.kinds
    assert task.draw("all", range(40)) == task.ask([39])


@pytest.mark.parametrize(
    "answer, truth, score",
    [("Top left.", "top left", 1.0), ("a  cat", "A cat!", 1.0), ("left top", "top left", 0.0), ("3", "13", 0.0)],
)
def test_right_is_the_same_words(drawn: list[Sample], answer: str, truth: str, score: float) -> None:
    assert OwnQuestions(drawn, tessella.load("mini")[1]).score(answer, truth) == score
