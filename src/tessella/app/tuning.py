"""The whole job of `tessella tune`: check, read the samples, load the model, search, judge, write the recipe."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..calibration.recipes import check_recipe_target, save_recipe
from ..core.budget import parse_keep
from ..core.errors import InputError
from ..core.pipeline import as_pipeline
from ..core.registry import load_class
from ..pictures.saving import check_target, save_bytes
from ..samples import load_samples, name_data
from ..tuning.goal import Goal, make_goal
from ..tuning.questions import check_samples
from ..tuning.result import Result
from ..tuning.search import import_optuna
from ..tuning.tune import TRIALS, check_numbers, tune
from .jobs import to_json
from .source import Source


@dataclass(frozen=True)
class Request:
    """What to look for, and on which samples; see `tuning.tune.tune`."""

    data: str
    lose: float | None = None  # points
    keep: str | None = None
    methods: str | None = None  # ids with commas between
    trials: int = TRIALS
    limit: int | None = None
    seed: int = 0
    batch: int = 20

    def check(self) -> Goal:
        """Raise the error of core that this request deserves, as far as it shows without samples; the goal."""
        check_numbers(self.trials, self.batch)
        self.read_methods()
        import_optuna()
        return make_goal(self.lose, None if self.keep is None else parse_keep(self.keep))

    def read_methods(self) -> tuple[str, ...] | None:
        """Ids of methods, None for all. Raises UnknownMethodError, or InputError for none or one twice."""
        if self.methods is None:
            return None
        names = tuple(name.strip() for name in self.methods.split(","))
        if not all(names) or len(set(names)) < len(names):
            raise InputError(f"methods must name ids of methods, each once, with commas between; got {self.methods!r}.")
        for name in names:
            load_class(name)
        return names


def run_tuning(request: Request, source: Source, out: str | Path, advance: Callable[[int, int], None]) -> Result:
    """Search for what is asked for; write the recipe, unless nothing keeps to the limit, and the numbers beside it.

    Answers are kept in a ledger beside the recipe: the same command goes on from there. Ctrl-C during the search keeps
    the best so far; before or behind it, KeyboardInterrupt says how to go on.
    """
    goal = request.check()
    target = check_recipe_target(out)
    ledger, numbers = files_beside(target)
    check_target(numbers)
    samples = load_samples(request.data, request.limit, request.seed)
    check_samples(samples)
    model, processor = source.load()
    try:
        result = tune(
            model,
            processor,
            samples,
            goal,
            ledger,
            methods=request.read_methods(),
            trials=request.trials,
            seed=request.seed,
            batch=request.batch,
            advance=advance,
            data_name=name_data(request.data),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"no recipe was written; answers are kept in {str(ledger)!r}, and the same command goes on from there"
        ) from None
    save_bytes((to_json(result.to_dict()) + "\n").encode("utf-8"), numbers)
    if result.recipe is None:
        return result
    return dataclasses.replace(result, recipe=save_recipe(result.recipe, target))


def files_beside(recipe: Path) -> tuple[Path, Path]:
    """The ledger and the numbers that belong to a recipe: `tuned.db` and `tuned.front.json` for `tuned.json`."""
    return recipe.with_suffix(".db"), recipe.with_suffix(".front.json")


def how_to_use_tuned(result: Result, model: str) -> str | None:
    """A command that asks a question with the recipe that was written, if one was."""
    if result.recipe is None:
        return None
    method = str(as_pipeline(result.recipe))
    return shlex.join(["tessella", "ask", "PICTURE", "QUESTION", "--model", model, "--method", method])


def result_as_json(result: Result) -> dict[str, Any]:
    """Plain values for JSON, with the recipe's file or None."""
    return {**result.to_dict(), "out": result.recipe and result.recipe.source}
