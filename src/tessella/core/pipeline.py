"""Pipelines: methods in order, each with its budget, and their text form.

    divprune:0.5 | fastv@2:0.5          two methods; half of the tokens, then half of those in front of layer 2
    hiprune(alpha=0.2):64               a hyper-parameter; 64 tokens per image
    fastervlm:29 per tile               another scope
    feather_like(scorer=fastv@3):1/9    a method inside a method
    fitted/debias.json:64               a recipe: a method with settings fitted to one model

A text reads `id (settings) @layer :keep per scope`; everything after the id is optional. In the place of all but the
keep may stand a recipe's file, which ends in .json and is quoted if brackets, quotes, commas or bars are in its name.
It is read when the text is. A recipe that holds a keep runs at that one where none is given; one that holds several
steps stands for all of them, with its own keeps.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any

from .budget import SCOPES, Budget
from .contracts import Method
from .errors import BudgetError, MethodError
from .method_text import format_method, parse_method, split_outside
from .recipe import Recipe, read_recipe
from .registry import load_class


@dataclass(frozen=True)
class Part:
    """A method and its budget (None until one is given), and the recipe that it was made from, if there is one.

    `number` is that of the step in its recipe, which names all of them where it has several.
    """

    method: Method
    budget: Budget | None = None
    recipe: Recipe | None = field(default=None, compare=False)
    number: int = field(default=0, compare=False)

    def __str__(self) -> str:
        file = self.recipe and self.recipe.source
        if file and self.is_one_of_several:
            return _format_file(file)
        name = _format_file(file) if file else format_method(self.method)
        return name + (f":{self.budget}" if self.budget else "")

    @property
    def is_one_of_several(self) -> bool:
        """Whether its recipe has further steps."""
        return self.recipe is not None and bool(self.recipe.then)

    @property
    def is_named_before(self) -> bool:
        """Whether the text of an earlier part, a recipe's file, stands for this one too."""
        return self.number > 0 and self.recipe is not None and self.recipe.source is not None

    @property
    def needs_keep(self) -> bool:
        """Whether nothing can be decided without a keep, and there is none yet."""
        card = self.method.card
        return card.takes_keep and card.count != "adaptive" and self.budget is None

    def with_own_budget(self) -> Part:
        """This part with its recipe's budget, where it has none and its recipe has one."""
        is_free = self.budget is None and not self.is_one_of_several
        own = self.recipe.budget if self.recipe and is_free else None
        return replace(self, budget=own) if own else self


@dataclass(frozen=True)
class Pipeline:
    """Methods in the order in which they act. `str(pipeline)` is its text form; `parse` reads it back."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return " | ".join(str(p) for p in self.parts if not p.is_named_before)

    def with_budget(self, keep: Any = None, scope: Any = None) -> Pipeline:
        """This pipeline with `keep` as the budget of its only keep-taking method; without one, with its recipes' own.

        Raises BudgetError if a budget is missing, given twice, or given to methods that take none.
        """
        takers = [p for p in self.parts if p.method.card.takes_keep]
        for p in self.parts:
            if p.budget and not p.method.card.takes_keep:
                raise BudgetError(f"{p.method.id} takes no keep; got {p.budget}. Leave it out.")
        if keep is None:
            own = tuple(p.with_own_budget() for p in self.parts)
            if own != self.parts:
                return Pipeline(own).with_budget(None, scope)
            missing = [p.method.id for p in self.parts if p.needs_keep]
            if missing:
                raise BudgetError(f"{missing[0]} needs a keep: an int >= 1, a fraction in (0, 1] or 'a/b'.")
            if scope is not None:
                raise BudgetError(
                    f"scope={scope!r} was given without a keep; write it in the pipeline: 'id:64 per tile'."
                )
            return self
        if not takers:
            raise BudgetError(f"{self.parts[0].method.id} takes no keep; got {keep!r}. Leave it out.")
        if any(p.budget for p in takers):
            raise BudgetError(
                f"keep={keep!r} was given beside a pipeline with its own budgets: '{self}'. Use one of them."
            )
        if len(takers) > 1:
            raise BudgetError(
                f"keep={keep!r} does not say how to share it among {len(takers)} methods of '{self}'; "
                "write 'a:0.5 | b:64'."
            )
        budget = Budget(keep, scope)
        return Pipeline(tuple(replace(p, budget=budget) if p is takers[0] else p for p in self.parts))


def example_of(method_id: str) -> Pipeline:
    """A registered method by itself or, where it wraps others, as in its card's example."""
    return parse(load_class(method_id).card.example or method_id)


def as_pipeline(what: str | Method | Recipe | Pipeline) -> Pipeline:
    """A pipeline from its text, a method, a recipe or a pipeline."""
    if isinstance(what, Pipeline):
        return what
    if isinstance(what, Method):
        return Pipeline((Part(what),))
    if isinstance(what, Recipe):
        return Pipeline(_parts_of(what))
    if isinstance(what, str):
        return parse(what)
    raise MethodError(f"a pipeline is a text, a method, a recipe or a Pipeline; got {type(what).__name__}.")


def parse(text: str, *, recipes: bool = True) -> Pipeline:
    """Read a pipeline's text form, and the files of its recipes; without `recipes` no file is touched.

    Raises MethodError, BudgetError or UnknownMethodError naming the part at fault, InputError for a file that is no
    recipe, MethodError for any file where there is to be none.
    """
    parts = [part.strip() for part in split_outside(text, "|")]
    if not all(parts):
        raise MethodError(f"empty step in pipeline {text!r}; write 'divprune:0.5 | fastv@2:0.5'.")
    if not recipes and any(map(_FILE.match, parts)):
        raise MethodError(f"the pipeline {text!r} names a recipe's file, which is not read here; name its method.")
    return Pipeline(tuple(part for text in parts for part in _parse_parts(text)))


_FILE = re.compile(r"""(?P<quote>['"])(?P<quoted>.*?\.json)(?P=quote)|(?P<plain>[^()'"]*?\.json)(?![\w/.\\])""", re.I)


def _parse_parts(text: str) -> tuple[Part, ...]:
    """One part, or those of a recipe with several steps."""
    if file := _FILE.match(text):
        recipe = read_recipe(file["quoted"] or file["plain"])
        budget = _parse_budget(text[file.end() :], text, "recipe.json")
        if budget and recipe.then:
            steps = 1 + len(recipe.then)
            raise BudgetError(
                f"the recipe {recipe.source!r} holds {steps} steps with keeps of their own; got {budget}. Leave it out."
            )
        return _parts_of(recipe, budget)
    method, rest = parse_method(text)
    return (Part(method, _parse_budget(rest, text, "id(settings)@layer")),)


def _parts_of(recipe: Recipe, budget: Budget | None = None) -> tuple[Part, ...]:
    """The steps of a recipe; the keep of a single one may be given here or later, those of several stand."""
    if not recipe.then:
        return (Part(recipe.make(), budget, recipe),)
    later = (Part(step.make(), step.budget, recipe, number) for number, step in enumerate(recipe.then, start=1))
    return (Part(recipe.make(), recipe.budget, recipe), *later)


def _parse_budget(rest: str, text: str, form: str) -> Budget | None:
    """The budget at the end of a part `text` of the given form."""
    rest = rest.strip()
    if not rest:
        return None
    if not rest.startswith(":"):
        raise MethodError(f"cannot read {rest!r} in {text!r}; write '{form}:keep per scope'.")
    keep, _, scope = rest[1:].partition(" per ")
    if scope and scope.strip() not in SCOPES:
        raise BudgetError(f"no scope {scope.strip()!r} in {text!r}; allowed: {', '.join(SCOPES)}.")
    return Budget(keep.strip(), scope.strip() or None)


def _format_file(name: str) -> str:
    read = _FILE.match(name)
    if read and read["plain"] == name.strip() == name and not re.search(r"[\[\]{},|]", name):
        return name
    return f'"{name}"' if "'" in name else f"'{name}'"
