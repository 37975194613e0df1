"""Tune a reduction to a model and a user's own questions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..bench.ledger import Ledger
from ..core.errors import InputError
from ..core.recipe import DataFacts
from ..engine.companions import companions_of
from ..engine.signature import describe_model
from ..models.adapter import find_adapter
from ..models.placing import layout_of
from ..samples import Sample, digest_samples
from .asking import Asking, start_asking
from .blocks import find_blocks
from .goal import Goal, choose, front_of
from .judging import judge
from .questions import OwnQuestions, divide_samples
from .result import Result, make_recipe
from .search import import_optuna, search
from .space import make_space
from .timing import ROUNDS

TRIALS = 100
FRONT = 6  # rows of the front that are judged

Advance = Callable[[int, int], None]


def tune(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    goal: Goal,
    ledger: str | Path,
    *,
    methods: Collection[str] | None = None,
    trials: int = TRIALS,
    seed: int = 0,
    batch: int = 20,
    rounds: int = ROUNDS,
    advance: Advance = lambda done, of: None,
    data_name: str = "samples",
) -> Result:
    """Search on half of the samples, whose pictures stay encoded in memory, and judge on the other half what was found.

    `goal`: see `goal.make_goal`. `ledger`: where every answer is kept; with one of an earlier search of the same seed
    and samples this one goes on from there. `methods` restricts what pipelines are built of. An interrupt during the
    search ends it with the best so far. `rounds`: in which time is taken.

    Raises InputError for samples that cannot be used and for a missing package, UnsupportedError where the model can
    carry none of the methods, UnknownMethodError for a name that no method has.
    """
    check_numbers(trials, batch)
    import_optuna()
    task = OwnQuestions(samples, processor)
    searched, held_out = divide_samples(samples, seed)
    adapter = find_adapter(model)
    space = make_space(find_blocks(model, methods), adapter.info, goal.keep)
    with Ledger(ledger, "tune") as opened:
        name = companions_of(model).name or str(model.config._name_or_path)
        asking = start_asking(model, processor, name, task, opened, batch)
        goal = dataclasses.replace(goal, slack=_half_a_token(asking, searched))
        building = asking.building([*space.fronts, *space.backs])
        prepared = [asking.prepare(asked, building) for asked in asking.groups(searched)]
        found = search(asking, space, goal, prepared, trials, seed, advance)
        if not found.finished:
            raise InputError(f"none of {trials} trials was finished; give more trials, or other methods.")
        del prepared
        chosen = choose(found.finished, goal)
        front = front_of(found.finished, goal, FRONT)
        rows = judge(asking, space, goal, chosen, front, held_out, seed, rounds)
    result = Result(goal, chosen, tuple(rows), found, len(searched), len(held_out), None)
    if not goal.allows(chosen):
        return result
    data = DataFacts(data_name, len(samples), digest_samples(samples))
    options = {"trials": trials, "batch": batch, **({"methods": tuple(methods)} if methods is not None else {})}
    recipe = make_recipe(result, describe_model(model, adapter), data, seed, __version__, options)
    return dataclasses.replace(result, recipe=recipe)


def check_numbers(trials: int, batch: int) -> None:
    """Raise InputError for less than one trial, or a batch of nothing."""
    if trials < 1:
        raise InputError(f"trials must be at least 1; got {trials}.")
    if batch < 1:
        raise InputError(f"batch must be at least 1 sample; got {batch}.")


def _half_a_token(asking: Asking, numbers: Sequence[int]) -> float:
    """Half a visual token of a picture, as a share. Raises InputError for pictures of one token."""
    layout = layout_of(find_adapter(asking.model), asking.inputs(asking.task.ask(numbers[:1])))
    tokens = 0 if layout is None else max(layout.num_tokens)
    if tokens < 2:
        raise InputError(f"a picture is {tokens} visual token(s) for this model; nothing is cheaper than that.")
    return 0.5 / tokens
