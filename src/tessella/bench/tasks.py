"""Which questions of a task are asked, in batches whose members never change."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import InputError
from .embedded import SEED_STRIDE, Embedded
from .task import Task


@dataclass(frozen=True)
class Batch:
    """Questions that are answered together. `numbers` are its members, `wanted` those of them that were asked for.

    Members depend on the task and the batch size alone, not on how many questions are asked for, so that a question is
    answered in the same company whenever it is.
    """

    kind: str
    numbers: range
    wanted: range


def find_task(name: str, data: str | Path | None = None, seed: int = 0) -> Task:
    """The embedded world, or a public set by name, with `data` from a local file or folder. Options stand behind it.

    Raises InputError for a name that no task has, for data or a seed that the task does not take, and for a set that
    cannot be reached.
    """
    from .sets import load_set, split_options

    bare, options = split_options(name)
    if bare == Embedded.id:
        if data is not None:
            raise InputError(f"the task {bare!r} draws its own pictures and takes no data; got {str(data)!r}.")
        if set(options) - {"variant"}:
            raise InputError(f"the task {bare!r} has one option, variant, as in mini(variant='crowded'); got {name!r}.")
        return Embedded(seed, **options)
    if seed:
        raise InputError(f"the questions of {name!r} are fixed, so that there is no seed; got {seed}.")
    return load_set(name, data)


def read_kinds(task: Task, text: str | None) -> tuple[str, ...]:
    """Question types from a text with commas, the usual ones by default. Raises InputError with the closest one."""
    if text is None:
        return task.usual_kinds
    kinds = tuple(part.strip() for part in text.split(","))
    for kind in kinds:
        if kind not in task.kinds:
            close = difflib.get_close_matches(kind, task.kinds, n=1, cutoff=0.5)
            hint = f" Closest: {close[0]!r}." if close else ""
            raise InputError(f"no question type {kind!r}; allowed: {', '.join(task.kinds)}.{hint}")
    twice = next((kind for kind in kinds if kinds.count(kind) > 1), None)
    if twice:
        raise InputError(f"types names {twice!r} twice.")
    return kinds


def batch_size(limit: int, batch: int) -> int:
    """Questions in a batch: no more than are asked for. Raises InputError for counts below 1 or too many questions."""
    if not 1 <= limit <= SEED_STRIDE:
        raise InputError(f"limit must be between 1 and {SEED_STRIDE:,} questions of each type; got {limit}.")
    if batch < 1:
        raise InputError(f"batch must be at least 1; got {batch}.")
    return min(limit, batch)


def batches(task: Task, kinds: Sequence[str], limit: int, size: int) -> Iterator[Batch]:
    """The batches that hold the first `limit` questions of each type, or all where there are fewer."""
    for kind in kinds:
        there = task.numbers(kind)
        wanted = there[:limit]
        for start in range(0, len(wanted), size):
            yield Batch(kind, there[start : start + size], wanted[start : start + size])


def read_shard(text: str | None) -> tuple[int, int]:
    """'2/3' as (1, 3): the second of three parts of the batches. Raises InputError for what is no such share."""
    if text is None:
        return 0, 1
    number, _, of = text.partition("/")
    if number.strip().isdigit() and of.strip().isdigit() and 1 <= int(number) <= int(of):
        return int(number) - 1, int(of)
    raise InputError(f"shard must be i/n with 1 <= i <= n, as in 1/4; got {text!r}.")
