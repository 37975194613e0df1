"""Questions of the bench: pinned, and in batches that do not depend on how many are asked for."""

from __future__ import annotations

import hashlib

import pytest

from tessella.bench import embedded, tasks
from tessella.bench.embedded import Embedded
from tessella.core.errors import InputError
from tessella.mini.prompts import ALL_KINDS, draw_prompt
from tessella.mini.questions import KINDS

# questions and answers of the first ten test samples of each type; when they move, raise the version too
PINNED = {"1": "33bee4527778fd02", "2": "47d7ee788b9af69f"}


def digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def test_samples_are_those_of_the_task_version():
    lines = []
    for kind in ALL_KINDS:
        for number in range(200_000, 200_010):
            drawn = draw_prompt(kind, number, Embedded.split)
            words = [part for part in drawn.parts if isinstance(part, str)]
            lines.append(f"{kind} {number} {' '.join(words)} {drawn.answer}")
    assert digest(lines) == PINNED[Embedded.version]
    assert digest(lines[: 10 * len(KINDS)]) == PINNED["1"]  # what was asked of one picture has not changed


def test_contexts_and_clips_are_asked_when_they_are_named():
    task = Embedded()
    assert (task.kinds, task.usual_kinds) == (ALL_KINDS, KINDS)
    assert tasks.read_kinds(task, "shots,motion") == ("shots", "motion")
    [asked] = task.draw("shots", [200_000])
    assert [isinstance(part, str) for part in asked.parts].count(False) in (2, 3, 4)


def test_a_variant_is_another_look_of_single_pictures():
    crowded = tasks.find_task("mini(variant='crowded')")
    assert crowded.kinds == KINDS
    assert crowded.facts()["task"] == f"mini world, crowded {Embedded.version}"
    assert crowded.draw("digit", [5])[0].parts[0] != Embedded().draw("digit", [5])[0].parts[0]
    with pytest.raises(InputError, match=r"variant must be one of plain, sparse, crowded, small, large; got 'full'"):
        tasks.find_task("mini(variant='full')")
    with pytest.raises(InputError, match="the task 'mini' has one option, variant"):
        tasks.find_task("mini(size=3)")


def test_batches_have_the_same_members_whatever_the_limit():
    for kind in ("digit", "shape"):
        few, many = (list(tasks.batches(Embedded(), (kind,), limit, 4)) for limit in (6, 10))
        assert [b.numbers for b in few] == [b.numbers for b in many[:2]]
        assert [list(b.wanted) for b in few] == [[200_000, 200_001, 200_002, 200_003], [200_004, 200_005]]
        assert [n for b in many for n in b.wanted] == list(range(200_000, 200_010))


def test_a_task_ends_where_its_questions_do():
    task = Embedded()
    task.numbers = lambda kind: range(5)
    assert [(b.numbers, b.wanted) for b in tasks.batches(task, ("digit",), 50, 3)] == [
        (range(3), range(3)),
        (range(3, 5), range(3, 5)),
    ]


def test_first_numbers_are_far_apart_and_beyond_those_in_use():
    assert [embedded.first_number(n) for n in (0, 1, 7)] == [200_000, 1_200_000, 7_200_000]
    with pytest.raises(InputError, match=r"seed must be between 0 and 1,000,000; got -1\."):
        embedded.first_number(-1)


def test_a_batch_is_no_larger_than_the_limit():
    assert [tasks.batch_size(limit, 50) for limit in (3, 50, 75)] == [3, 50, 50]
    for limit, batch, message in ((0, 5, "limit must be between 1"), (5, 0, "batch must be at least 1; got 0")):
        with pytest.raises(InputError, match=message):
            tasks.batch_size(limit, batch)


def test_types_are_read_or_refused_with_the_closest():
    assert tasks.read_kinds(Embedded(), None) == KINDS
    assert tasks.read_kinds(Embedded(), "digit, colour") == ("digit", "colour")
    with pytest.raises(InputError, match=r"no question type 'color'; allowed: .*Closest: 'colour'"):
        tasks.read_kinds(Embedded(), "digit,color")
    with pytest.raises(InputError, match="types names 'digit' twice"):
        tasks.read_kinds(Embedded(), "digit,digit")


def test_the_digest_moves_with_the_pictures():
    one = embedded.pictures_digest(("colour",))
    assert one == embedded.pictures_digest(("colour",))
    assert len({one, embedded.pictures_digest(("shape",)), embedded.pictures_digest(("colour",), (1,))}) == 3


def test_exact_match():
    assert Embedded().score("top left", "top left") == 1
    assert Embedded().score("top left.", "top left") == 0


def test_a_shard_is_a_share_of_the_batches():
    assert [tasks.read_shard(text) for text in (None, "1/1", "2/3", "3/3")] == [(0, 1), (0, 1), (1, 3), (2, 3)]
    for text in ("0/3", "4/3", "2", "a/b", "-1/2", "1/0"):
        with pytest.raises(InputError, match=f"shard must be i/n with 1 <= i <= n, as in 1/4; got '{text}'"):
            tasks.read_shard(text)


def test_a_task_that_is_none_and_what_a_task_does_not_take():
    assert tasks.find_task("mini", seed=3).numbers("digit")[0] == 3_200_000
    with pytest.raises(InputError, match="draws its own pictures and takes no data; got 'here'"):
        tasks.find_task("mini", "here")
    with pytest.raises(InputError, match="the questions of 'pope' are fixed"):
        tasks.find_task("pope", seed=1)
