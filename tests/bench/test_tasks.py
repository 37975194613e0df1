"""Questions of the bench: pinned, and in batches that do not depend on how many are asked for."""

from __future__ import annotations

import hashlib

import pytest

from tessella.bench import tasks
from tessella.core.errors import InputError
from tessella.mini.questions import KINDS, sample

# questions and answers of the first ten test samples of each type; when they move, raise TASK_VERSION too
PINNED = {"1": "33bee4527778fd02"}


def test_samples_are_those_of_the_task_version():
    lines = []
    for kind in KINDS:
        for seed in range(200_000, 200_010):
            drawn = sample(kind, seed, tasks.SPLIT)
            lines.append(f"{kind} {seed} {drawn.question} {drawn.answer}")
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == PINNED[tasks.TASK_VERSION]


def test_batches_have_the_same_members_whatever_the_limit():
    for kind in ("digit", "shape"):
        few, many = (list(tasks.batches((kind,), 1000, limit, 4)) for limit in (6, 10))
        assert [b.seeds for b in few] == [b.seeds for b in many[:2]]
        assert [list(b.wanted) for b in few] == [[1000, 1001, 1002, 1003], [1004, 1005]]
        assert [s for b in many for s in b.wanted] == list(range(1000, 1010))


def test_first_seeds_are_far_apart_and_beyond_those_in_use():
    assert [tasks.first_seed(n) for n in (0, 1, 7)] == [200_000, 1_200_000, 7_200_000]
    with pytest.raises(InputError, match=r"seed must be between 0 and 1,000,000; got -1\."):
        tasks.first_seed(-1)


def test_a_batch_is_no_larger_than_the_limit():
    assert [tasks.batch_size(limit, 50) for limit in (3, 50, 75)] == [3, 50, 50]
    for limit, batch, message in ((0, 5, "limit must be between 1"), (5, 0, "batch must be at least 1; got 0")):
        with pytest.raises(InputError, match=message):
            tasks.batch_size(limit, batch)


def test_types_are_read_or_refused_with_the_closest():
    assert tasks.read_kinds(None) == KINDS
    assert tasks.read_kinds("digit, colour") == ("digit", "colour")
    with pytest.raises(InputError, match=r"no question type 'color'; allowed: .*Closest: 'colour'"):
        tasks.read_kinds("digit,color")
    with pytest.raises(InputError, match="types names 'digit' twice"):
        tasks.read_kinds("digit,digit")


def test_the_digest_moves_with_the_pictures():
    one = tasks.pictures_digest(("colour",))
    assert one == tasks.pictures_digest(("colour",))
    assert len({one, tasks.pictures_digest(("shape",)), tasks.pictures_digest(("colour",), (1,))}) == 3


def test_exact_match():
    assert tasks.is_correct("top left", "top left")
    assert not tasks.is_correct("top left.", "top left")
