"""The search: an Optuna sampler proposes pipelines, each is asked question after question until it is hopeless."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from ..bench.batches import Prepared
from ..bench.records import FULL, Record
from ..calibration.vflowopt import quiet
from ..core.errors import BudgetError, InputError, MethodError, UnsupportedError
from ..core.pipeline import Pipeline, parse
from .asking import Asking
from .goal import Goal, Trial, choose
from .space import Space

REFUSALS = (BudgetError, MethodError, UnsupportedError)  # of values that make no pipeline for the model
REFUSED = 100.0  # their rank
ASKS = 20  # proposals for each trial, of which most may be refused
RANDOM = 12  # trials by chance behind the start, before the sampler goes by what it has seen


@dataclass(frozen=True)
class Search:
    """All trials of a search in their order, and whether Ctrl-C ended it."""

    full: Trial
    trials: tuple[Trial, ...]
    wanted: int
    stopped: bool = False

    @property
    def finished(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.finished]


def search(
    asking: Asking,
    space: Space,
    goal: Goal,
    prepared: Sequence[Prepared],
    trials: int,
    seed: int,
    advance: Callable[[int, int], None] = lambda done, of: None,
) -> Search:
    """Try `trials` different pipelines: first published methods alone, then what the sampler proposes.

    A function of the seed and the answers: with a ledger of some of them it goes the same way again, only faster.
    An interrupt ends it, with what was tried; before the first trial is finished it is raised.
    """
    full = ask_all(asking, parse(FULL), prepared, None)
    optuna = import_optuna()
    with quiet(optuna):
        this = _Searcher(optuna, _study(optuna, space, trials, seed), asking, space, goal, prepared, full)
        try:
            for _ in range(ASKS * trials):
                if len(this.tried) == trials:
                    break
                this.try_one()
                advance(len(this.tried), trials)
        except KeyboardInterrupt:
            if not this.finished:
                raise
            return Search(full, tuple(this.tried.values()), trials, stopped=True)
    return Search(full, tuple(this.tried.values()), trials)


@dataclass
class _Searcher:
    """A search under way; `tried` has its trials by the text of their pipelines."""

    optuna: Any
    study: Any
    asking: Asking
    space: Space
    goal: Goal
    prepared: Sequence[Prepared]
    full: Trial
    tried: dict[str, Trial] = field(default_factory=dict)

    @property
    def finished(self) -> list[Trial]:
        return [trial for trial in self.tried.values() if trial.finished]

    def try_one(self) -> None:
        """Ask for one pipeline, try it unless it was, and tell the study; refused ones are told and not tried."""
        proposal = self.study.ask()
        try:
            pipeline = self.space.suggest(proposal)
            trial = self.tried.get(str(pipeline)) or self._try(pipeline)
        except REFUSALS:
            self.study.tell(proposal, REFUSED)
            return
        self.tried[str(pipeline)] = trial
        if trial.finished:
            self.study.tell(proposal, self.goal.rank(trial))
        else:
            proposal.report(self.goal.rank(trial), len(trial.right))
            self.study.tell(proposal, state=self.optuna.trial.TrialState.PRUNED)

    def _try(self, pipeline: Pipeline) -> Trial:
        best = choose(self.finished, self.goal) if self.finished else None

        def is_hopeless(so_far: Trial) -> bool:
            return self.goal.is_hopeless(so_far, self.full.right, best)

        return ask_all(self.asking, pipeline, self.prepared, self.full, is_hopeless)


def ask_all(
    asking: Asking,
    pipeline: Pipeline,
    prepared: Sequence[Prepared],
    full: Trial | None,
    is_hopeless: Callable[[Trial], bool] = lambda so_far: False,
) -> Trial:
    """A pipeline on prepared questions, group after group until it is hopeless; `full` None: it is the full model.

    Raises the errors of core for a pipeline that the model cannot carry.
    """
    records: list[Record] = []
    entry = asking.entry(pipeline)
    for number, group in enumerate(prepared, start=1):
        records += asking.answers(entry, group.asked, group)
        so_far = _trial(pipeline, records, full, finished=number == len(prepared))
        if not so_far.finished and is_hopeless(so_far):
            return so_far
    return so_far


def import_optuna() -> Any:
    """Optuna, or InputError naming the extra that installs it."""
    try:
        import optuna
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise InputError("tuning needs optuna, which is not installed: pip install 'tessella[tune]'") from None
    return optuna


def _study(optuna: Any, space: Space, trials: int, seed: int) -> Any:
    starts = space.starts()
    Random(seed).shuffle(starts)
    starts = starts[: trials // 2]
    sampler = optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=len(starts) + min(RANDOM, trials // 4), multivariate=True, group=True
    )
    study = optuna.create_study(direction="minimize", sampler=sampler)
    for values in starts:
        study.enqueue_trial(values)
    return study


def _trial(pipeline: Pipeline, records: Sequence[Record], full: Trial | None, finished: bool) -> Trial:
    right = np.array([r.score for r in records])
    cost = float(np.mean([r.mean_keep_ratio for r in records]))
    lost = np.zeros(len(records)) if full is None else full.right[: len(records)] - right
    kinds = np.array([r.kind for r in records])
    loss = float(np.mean([lost[kinds == kind].mean() for kind in np.unique(kinds)]))
    return Trial(pipeline, right, cost, loss, finished)
