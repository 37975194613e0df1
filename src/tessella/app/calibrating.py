"""The whole job of `tessella calibrate`: check, read the samples, load the model, fit, write the recipe."""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..calibration.fitting import calibrate, find_fitter
from ..calibration.recipes import check_recipe_target, save_recipe
from ..core.budget import Budget
from ..core.errors import InputError
from ..core.method_text import format_value, read_method
from ..core.pipeline import as_pipeline
from ..core.recipe import Recipe
from ..core.registry import load_class
from ..samples import load_samples, name_data
from .source import Source


@dataclass(frozen=True)
class Request:
    """What to fit, on which samples, and how; see `calibration.fitting.calibrate`."""

    method: str
    data: str
    keep: str | None = None
    scope: str | None = None
    limit: int | None = None
    seed: int = 0
    batch: int = 8
    options: Sequence[str] = ()  # texts 'name=value'

    @property
    def budget(self) -> Budget | None:
        if self.keep is None and self.scope is not None:
            raise InputError(f"scope={self.scope!r} was given without a keep.")
        return None if self.keep is None else Budget(self.keep, self.scope)


def run_calibration(
    request: Request, source: Source, out: str | Path | None, advance: Callable[[int, int], None]
) -> Recipe:
    """Fit what is asked for and write the recipe, by default METHOD.json; returns it as it is read from there.

    Nothing is written before all is fitted. Ctrl-C raises KeyboardInterrupt that says so.
    """
    method = read_method(request.method)
    fitter = find_fitter(method.id)
    options = read_options(request.options)
    fitter.check(request.budget, options, request.batch)
    target = check_recipe_target(f"{method.id}.json" if out is None else out)
    samples = load_samples(request.data, request.limit, request.seed)
    fitter.check_samples(len(samples))
    model, processor = source.load()
    try:
        recipe = calibrate(
            model,
            processor,
            method,
            samples,
            request.budget,
            request.seed,
            options,
            advance,
            batch=request.batch,
            data_name=name_data(request.data),
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was written") from None
    return save_recipe(recipe, target)


def read_options(texts: Sequence[str]) -> dict[str, Any]:
    """Options by name from texts 'name=value', where a value is a Python literal or else a text.

    >>> read_options(["trials=20", "scorer=fastv"])
    {'trials': 20, 'scorer': 'fastv'}
    """
    out: dict[str, Any] = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise InputError(f"an option is written name=value; got {text!r}.")
        if name in out:
            raise InputError(f"option {name!r} is given twice.")
        try:
            out[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            out[name] = value
    return out


def describe_settings(recipe: Recipe) -> list[tuple[str, str]]:
    """Names and values of a recipe's settings, as a pipeline's text would have them."""
    return [(name, format_value(value)) for name, value in recipe.settings.items()]


def how_to_use(recipe: Recipe, model: str) -> str:
    """A command that asks a question with a saved recipe."""
    card = load_class(recipe.method).card
    needs_keep = card.takes_keep and card.count != "adaptive" and recipe.budget is None
    words = ["tessella", "ask", "PICTURE", "QUESTION", "--model", model, "--method", str(as_pipeline(recipe))]
    return shlex.join(words + (["--keep", "1/4"] if needs_keep else []))


def remarks_on(recipe: Recipe) -> tuple[str, ...]:
    """What must be said of a fit: a search that Ctrl-C ended, whose best so far was written."""
    done, wanted = (recipe.evidence.get(name) for name in ("trials", "trials_wanted"))
    if done is None or wanted is None or done >= wanted:
        return ()
    return (f"the search was stopped after {done} of {wanted} trials; the best of them was written.",)


def recipe_as_json(recipe: Recipe) -> dict[str, Any]:
    """What the recipe's file holds, and its name."""
    return {**json.loads(recipe.to_text()), "out": recipe.source}
