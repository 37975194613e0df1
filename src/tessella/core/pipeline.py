"""Pipelines: methods in order, each with its budget, and their text form.

    divprune:0.5 | fastv@2:0.5          two methods; half of the tokens, then half of those in front of layer 2
    hiprune(alpha=0.2):64               a hyper-parameter; 64 tokens per image
    fastervlm:29 per tile               another scope
    feather_like(scorer=fastv@3):1/9    a method inside a method

A text reads `id (settings) @layer :keep per scope`; everything after the id is optional.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .budget import SCOPES, Budget
from .contracts import Method
from .errors import BudgetError, MethodError
from .model_info import PaperLayer
from .registry import load_class, make


@dataclass(frozen=True)
class Part:
    """A method and its budget (None until one is given)."""

    method: Method
    budget: Budget | None = None

    def __str__(self) -> str:
        return format_method(self.method) + (f":{self.budget}" if self.budget else "")


@dataclass(frozen=True)
class Pipeline:
    """Methods in the order in which they act. `str(pipeline)` is its text form; `parse` reads it back."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        return " | ".join(str(p) for p in self.parts)

    def with_budget(self, keep: Any = None, scope: Any = None) -> Pipeline:
        """This pipeline with `keep` as the budget of its only keep-taking method.

        Raises BudgetError if a budget is missing, given twice, or given to methods that take none.
        """
        takers = [p for p in self.parts if p.method.card.takes_keep]
        for p in self.parts:
            if p.budget and not p.method.card.takes_keep:
                raise BudgetError(f"{p.method.id} takes no keep; got {p.budget}. Leave it out.")
        if keep is None:
            missing = [p.method.id for p in takers if p.budget is None and p.method.card.count != "adaptive"]
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
        return Pipeline(tuple(dataclasses.replace(p, budget=budget) if p is takers[0] else p for p in self.parts))


def example_of(method_id: str) -> Pipeline:
    """A registered method by itself or, where it wraps others, as in its card's example."""
    return parse(load_class(method_id).card.example or method_id)


def as_pipeline(what: str | Method | Pipeline) -> Pipeline:
    """A pipeline from its text, a method or a pipeline."""
    if isinstance(what, Pipeline):
        return what
    if isinstance(what, Method):
        return Pipeline((Part(what),))
    if isinstance(what, str):
        return parse(what)
    raise MethodError(f"a pipeline is a text, a method or a Pipeline; got {type(what).__name__}.")


def parse(text: str) -> Pipeline:
    """Read a pipeline's text form. Raises MethodError, BudgetError or UnknownMethodError naming the part at fault."""
    parts = split_outside(text, "|")
    if not all(p.strip() for p in parts):
        raise MethodError(f"empty step in pipeline {text!r}; write 'divprune:0.5 | fastv@2:0.5'.")
    return Pipeline(tuple(_parse_part(p.strip()) for p in parts))


def format_method(method: Method) -> str:
    """A method's text form: id, settings that differ from the defaults, and its layer."""
    settings = method.settings()
    layer = settings.pop("at_layer", None)
    inner = ", ".join(f"{n}={_format_value(v)}" for n, v in settings.items())
    return method.id + (f"({inner})" if inner else "") + (f"@{layer}" if layer is not None else "")


def split_outside(text: str, separator: str) -> list[str]:
    """Split at separators that stand outside brackets and quotes.

    >>> split_outside("a(x=1, y=(2, 3)), b", ",")
    ['a(x=1, y=(2, 3))', ' b']
    """
    out, start, depth = [], 0, 0
    for i, ch, depth in _unquoted(text):
        if ch == separator and depth == 0:
            out.append(text[start:i])
            start = i + 1
    if depth:
        raise MethodError(f"unbalanced brackets or quotes in {text!r}.")
    return [*out, text[start:]]


def _unquoted(text: str) -> Iterator[tuple[int, str, int]]:
    """Characters outside quotes, each with its place and the brackets that are open after it."""
    depth, quote = 0, ""
    for i, ch in enumerate(text):
        if quote:
            quote = "" if ch == quote else quote
        elif ch in "'\"":
            quote = ch
        else:
            depth += (ch in "([{") - (ch in ")]}")
            yield i, ch, depth
    if quote:
        raise MethodError(f"unbalanced brackets or quotes in {text!r}.")


_HEAD = re.compile(r"\s*([A-Za-z_]\w*)\s*")
_LAYER = re.compile(r"\s*@\s*(\d+)\s*")


def _parse_part(text: str) -> Part:
    method, rest = _parse_method(text)
    rest = rest.strip()
    if not rest:
        return Part(method)
    if not rest.startswith(":"):
        raise MethodError(f"cannot read {rest!r} in {text!r}; write 'id(settings)@layer:keep per scope'.")
    keep, _, scope = rest[1:].partition(" per ")
    if scope and scope.strip() not in SCOPES:
        raise BudgetError(f"no scope {scope.strip()!r} in {text!r}; allowed: {', '.join(SCOPES)}.")
    return Part(method, Budget(keep.strip(), scope.strip() or None))  # type: ignore[arg-type]


def _parse_method(text: str) -> tuple[Method, str]:
    head = _HEAD.match(text)
    if head is None:
        raise MethodError(f"a method id was expected; got {text!r}.")
    rest = text[head.end() :]
    settings: dict[str, Any] = {}
    if rest.startswith("("):
        end = _closing(rest, text)
        for item in split_outside(rest[1:end], ","):
            if item.strip():
                name, equals, value = item.partition("=")
                if not equals:
                    raise MethodError(f"setting {item.strip()!r} in {text!r} needs a name: 'name=value'.")
                settings[name.strip()] = _parse_value(value.strip())
        rest = rest[end + 1 :]
    layer = _LAYER.match(rest)
    if layer:
        if "at_layer" in settings:
            raise MethodError(f"{text!r} names its layer twice; use '@{layer[1]}' alone.")
        settings["at_layer"] = int(layer[1])
        rest = rest[layer.end() :]
    return make(head[1], **settings), rest


def _closing(rest: str, text: str) -> int:
    for i, _, depth in _unquoted(rest):
        if depth == 0:
            return i
    raise MethodError(f"unbalanced brackets in {text!r}.")


def _parse_value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        pass
    method, rest = _parse_method(text)
    if rest.strip():
        raise MethodError(f"cannot read {rest.strip()!r} in {text!r}: neither a value nor a method.")
    return method


def _format_value(value: Any) -> str:
    if isinstance(value, Method):
        return format_method(value)
    return repr(int(value) if isinstance(value, PaperLayer) else value)
