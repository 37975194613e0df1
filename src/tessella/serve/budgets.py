"""The pipeline of a request: what it names, what the command line fills in, and the ceiling that it must not exceed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

from ..app.answering import DEFAULT_METHOD, FULL
from ..core.budget import format_keep, parse_keep
from ..core.contracts import Method
from ..core.errors import BudgetError, MethodError
from ..core.pipeline import Pipeline, parse
from .settings import FrontSettings

MAX_SETTING = 10_000  # of a number among a method's settings, which may be a count of rounds or of directions


def check_budgets(front: FrontSettings) -> None:
    """Raise for a command line's method, keep or ceiling that cannot be, as `default_pipeline` and `parse_keep` do."""
    default_pipeline(front)
    if front.max_keep is not None:
        parse_keep(front.max_keep)


def default_pipeline(front: FrontSettings) -> Pipeline:
    """What a request gets that says nothing: the command line's method and keep, which may be a recipe's.

    Raises what `tessella.parse` and `Pipeline.with_budget` do.
    """
    return _default_method(front, front.keep).with_budget(front.keep)


def read_budget(
    front: FrontSettings, method: str | None = None, keep: int | float | str | None = None, scope: str | None = None
) -> Pipeline:
    """The pipeline that a request asks for, with its budgets. No file is opened for it.

    A method without a budget of its own gets the command line's keep; a keep without a method is for the command
    line's method. Raises what `tessella.parse` and `Pipeline.with_budget` do.
    """
    if method is None and keep is None and scope is None:
        return default_pipeline(front)
    if method is None:
        return _without_budget(_default_method(front, keep)).with_budget(keep, scope)
    pipeline = parse(method, recipes=False)
    for part in pipeline.parts:
        check_settings(part.method)
    if keep is None and [p.budget for p in pipeline.parts if p.method.card.takes_keep] == [None]:
        keep = front.keep
    return pipeline.with_budget(keep, scope)


def check_ceiling(pipeline: Pipeline, max_keep: str | None, num_pictures: int, num_visual: Callable[[], int]) -> None:
    """Raise BudgetError for a pipeline that asks for more visual tokens than `max_keep` lets it.

    `num_visual` counts those of the prompt; it is asked only where a number has to be compared with a fraction.
    """
    if max_keep is None or not num_pictures:
        return
    most, asked = parse_keep(max_keep), _asked(pipeline)
    limit, wanted = most, asked
    if type(most) is not type(asked):
        per_picture = Fraction(num_visual(), num_pictures)
        limit, wanted = (
            keep if isinstance(keep, int) else Fraction(keep) * per_picture for keep in (most, asked)
        )  # fmt: skip
    if wanted > limit:
        raise BudgetError(
            f"this server lets a request keep at most {format_keep(most)} "
            f"({'tokens a picture' if isinstance(most, int) else 'of the visual tokens'}); "
            f"'{pipeline}' asks for {format_keep(asked)}."
        )


def check_settings(method: Method) -> None:
    """Raise MethodError for a setting so large that one request could hold up a server; a seed costs nothing."""
    for name, value in method.settings().items():
        for number in _numbers(value):
            if abs(number) > MAX_SETTING and name != "seed":
                raise MethodError(f"{method.id}: {name} may be at most {MAX_SETTING:,} in a request; got {number:g}.")


def _default_method(front: FrontSettings, keep: Any) -> Pipeline:
    return parse(front.method or (FULL if keep is None else DEFAULT_METHOD))


def _without_budget(pipeline: Pipeline) -> Pipeline:
    """A pipeline of one method without its budget, so that another may take its place; a longer one as it is."""
    if len(pipeline.parts) > 1:
        return pipeline
    return Pipeline((replace(pipeline.parts[0], budget=None),))


def _asked(pipeline: Pipeline) -> int | Fraction:
    """What is left at the end: tokens of each picture, or a share of all. A step without a budget may keep all."""
    left: int | Fraction = Fraction(1)
    for part in pipeline.parts:
        if part.budget is None:
            continue
        keep = part.budget.keep
        if isinstance(keep, int):
            if part.budget.scope in ("tile", "frame"):
                raise BudgetError(
                    f"this server bounds what is kept, so a number per {part.budget.scope} is refused; "
                    f"write a fraction for '{part}'."
                )
            left = keep
        else:
            left = left * keep if isinstance(left, Fraction) else max(1, round(left * keep))
    return left


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, Method):
        check_settings(value)
    elif isinstance(value, list | tuple | set):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, dict):
        yield from _numbers((*value, *value.values()))
    elif isinstance(value, int | float):
        yield value
