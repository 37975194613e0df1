"""What pipelines can be built of: every registered method that a model can carry, and what wrappers may hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, get_args, get_type_hints

from ..core.budget import Budget
from ..core.contracts import Method
from ..core.errors import TessellaError, UnsupportedError
from ..core.model_info import ModelInfo
from ..core.pipeline import Part, Pipeline, example_of
from ..core.registry import load_class, method_modules
from ..engine.plan import can_apply, make_plan
from ..models.adapter import find_adapter

HALF = Budget(Fraction(1, 2))


@dataclass(frozen=True)
class Block:
    """A method that takes a keep, as its card's example has it.

    `holds` has for a wrapper the methods that each of its fields takes, `None` among them where it may be empty.
    """

    method: Method
    holds: Mapping[str, tuple[Method | None, ...]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.method.id

    @property
    def is_published(self) -> bool:
        """Whether a paper proposes it."""
        return self.method.card.paper is not None


def find_blocks(model: Any, names: Collection[str] | None = None) -> list[Block]:
    """The blocks for a model in the order of their ids; `names` leaves those of these methods.

    Raises UnknownMethodError for a name that no method has, UnsupportedError if nothing is left.
    """
    for name in names or ():
        load_class(name)
    wanted = [name for name in method_modules() if names is None or name in names]
    alone = [example_of(name).parts[0].method for name in wanted if not _fields_for_methods(load_class(name))]
    alone = [method for method in alone if _works(model, method)]
    wrappers = [name for name in wanted if _fields_for_methods(load_class(name))]
    blocks = [*map(Block, alone), *(_wrapper(model, example_of(name).parts[0].method, alone) for name in wrappers)]
    blocks = [block for block in blocks if all(block.holds.values())]
    if not blocks:
        what = "no method" if names is None else f"none of the methods {', '.join(names)}"
        raise UnsupportedError(f"{what} can leave fewer visual tokens on this model, so there is nothing to tune.")
    return sorted(blocks, key=lambda block: block.id)


def cuts_of(method: Method, info: ModelInfo) -> tuple[int, ...]:
    """The decoder layers in front of which a method cuts on a model. Raises as `Method.steps` does."""
    fitted = method.fit(info)
    return tuple(step.at_layer for step in fitted.steps(info, HALF))


def _works(model: Any, method: Method) -> bool:
    """Whether a model can carry a method that is told to keep a half."""
    pipeline = Pipeline((Part(method, HALF),))
    try:
        if not method.card.takes_keep or not can_apply(model, pipeline):
            return False
        make_plan(find_adapter(model), pipeline, None)
    except TessellaError:
        return False
    return True


def _fields_for_methods(cls: type[Method]) -> dict[str, bool]:
    """Fields of a wrapper that hold a method, and whether they may be empty."""
    hints = get_type_hints(cls)
    out = {}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        kinds = get_args(hints[f.name]) or (hints[f.name],)
        if any(isinstance(kind, type) and issubclass(kind, Method) for kind in kinds):
            out[f.name] = type(None) in kinds
    return out


def _wrapper(model: Any, example: Method, alone: list[Method]) -> Block:
    """A wrapper with what its fields take, by its own judgement and the model's; its example where that is taken."""
    fields = _fields_for_methods(type(example))
    empty = {name: None for name, optional in fields.items() if optional}
    base: Method = dataclasses.replace(example, **empty)  # type: ignore[type-var]
    holds = {
        name: (*([None] if optional else []), *_fitting(model, base, name, alone)) for name, optional in fields.items()
    }
    taken = all(getattr(example, name) in holds[name] for name in fields)
    first = {name: holds[name][0] for name in fields if name not in empty and holds[name]}
    return Block(example if taken else dataclasses.replace(base, **first), holds)  # type: ignore[type-var]


def _fitting(model: Any, wrapper: Method, name: str, alone: list[Method]) -> list[Method]:
    return [inner for inner in alone if (m := _replaced(wrapper, **{name: inner})) is not None and _works(model, m)]


def _replaced(method: Method, /, **fields: Any) -> Method | None:
    try:
        return dataclasses.replace(method, **fields)  # type: ignore[type-var]
    except TessellaError:
        return None
