"""The public verbs: reduce (a scope), apply and remove (lasting), can_apply."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from ..core.budget import Scope
from ..core.cards import Fate, Positions
from ..core.contracts import Method
from ..core.errors import UnsupportedError
from ..core.pipeline import Pipeline, as_pipeline
from ..core.recipe import Recipe
from ..core.roles import RolePolicy
from ..core.text_tower import TextTower
from .plan import can_apply
from .run import Run, active_run

M = TypeVar("M", bound=nn.Module)
Keep = int | float | str


def reduce(
    model: nn.Module,
    pipeline: str | Method | Recipe | Pipeline,
    keep: Keep | None = None,
    scope: Scope | None = None,
    positions: Positions | None = None,
    newlines: Fate | None = None,
    thumbnails: Fate | None = None,
    processor: Any = None,
    text_tower: TextTower | None = None,
) -> Run:
    """A run of `pipeline` on `model`, active inside `with`; the model leaves exactly as it came.

    `pipeline`: its text, in which a recipe's file may stand in the place of a method, or an object.
    `keep`: int tokens per image, a fraction in (0, 1] or 'a/b'; instead of budgets written in the pipeline.
    `scope`: what `keep` counts over (image, tile, frame, prompt, layer-mean). `positions`: `original` or `compact`.
    `newlines`, `thumbnails`: what becomes of such tokens, in families that have them; see `RolePolicy`.
    `processor`: the model's, or its tokenizer, for methods that read words. `text_tower`: for methods that compare the
    question with the picture, see `tessella.load_text_tower`. `tessella.load` remembers both of what it has loaded.
    Raises UnknownMethodError, BudgetError, MethodError or UnsupportedError before anything runs.
    """
    roles = RolePolicy(newlines, thumbnails)
    return Run(model, as_pipeline(pipeline).with_budget(keep, scope), positions, roles, processor, text_tower)


def apply(
    model: M,
    pipeline: str | Method | Recipe | Pipeline,
    keep: Keep | None = None,
    scope: Scope | None = None,
    positions: Positions | None = None,
    newlines: Fate | None = None,
    thumbnails: Fate | None = None,
    processor: Any = None,
    text_tower: TextTower | None = None,
) -> M:
    """Like `reduce`, lasting until `remove(model)`. Returns the model.

    Raises UnsupportedError too where a run is active on the model.
    """
    run = reduce(model, pipeline, keep, scope, positions, newlines, thumbnails, processor, text_tower)
    standing = active_run(model)
    if standing is not None:
        raise UnsupportedError(
            f"'{standing.pipeline}' is applied to this model already; end it: tessella.remove(model)."
        )
    run.__enter__()
    return model


def remove(model: M) -> M:
    """End the innermost run on a model. Raises UnsupportedError if there is none."""
    run = active_run(model)
    if run is None:
        raise UnsupportedError("nothing is applied to this model.")
    run.__exit__()
    return model


def current_run(model: nn.Module) -> Run | None:
    """The run that is active on a model, to read its report; None if there is none."""
    return active_run(model)


__all__ = ["apply", "can_apply", "current_run", "reduce", "remove"]
