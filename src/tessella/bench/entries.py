"""What is measured: pipelines from the user's list, each at its keeps, with the setting that its records belong to."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.budget import format_keep, parse_keep
from ..core.cards import STAGES
from ..core.contracts import Method, Rewriter
from ..core.errors import BudgetError, InputError, UnsupportedError
from ..core.model_info import PaperLayer
from ..core.pipeline import Pipeline, parse, split_outside
from ..core.registry import load_class, method_modules
from ..engine.companions import companions_of
from ..engine.plan import can_apply, counts_of, make_plan, units_of
from ..models.adapter import find_adapter
from ..models.placing import layout_of
from .identity import identify_tower
from .records import BLIND, DOWNSAMPLE, FULL, Setting

REFERENCES = (FULL, BLIND, DOWNSAMPLE)  # what other rows are read against; never filtered by stage


@dataclass(frozen=True)
class Choice:
    """A pipeline with its budget. `asked`: the user named it, so that it must work."""

    pipeline: Pipeline
    method: str
    keep: str | None
    asked: bool


@dataclass(frozen=True)
class Entry:
    """A pipeline that a model can carry and its setting."""

    pipeline: Pipeline
    setting: Setting

    @property
    def rewrites(self) -> bool:
        """True for pipelines that change the inputs and encode pictures of their own."""
        return any(isinstance(p.method, Rewriter) for p in self.pipeline.parts)


def read_keeps(text: str | None) -> tuple[str, ...]:
    """Keeps from a text with commas, in their shortest form. Raises BudgetError, or InputError for two alike."""
    keeps = tuple(format_keep(parse_keep(part.strip())) for part in text.split(",")) if text is not None else ()
    twice = next((k for k in keeps if keeps.count(k) > 1), None)
    if twice:
        raise InputError(f"keep names {twice} twice; got {text!r}.")
    return keeps


def read_choices(
    methods: str | None, keeps: Sequence[str], stage: str | None = None, only: bool = False
) -> list[Choice]:
    """The pipelines to measure; every registered method without a list, or for 'all'. Nothing of a model is asked.

    A pipeline that takes a keep and has no budget stands at each of `keeps`, any other once. `stage`, one or several
    with commas between, leaves those whose cards name one of them. The references (full, blind, down-sampled) come
    first and are added unless `only`.

    Raises InputError for nothing left or two alike, and the errors of core for what cannot be read.
    """
    stages = None if stage is None else [s.strip() for s in stage.split(",")]
    if stages is not None and not set(stages) <= set(STAGES):
        raise InputError(f"stage must be of {', '.join(STAGES)}, with commas between; got {stage!r}.")
    if methods == "all":
        methods = None
    texts = [t.strip() for t in split_outside(methods, ",")] if methods is not None else _registered()
    if not texts or not all(texts):
        raise InputError("methods must name at least one, with commas between: 'hiprune,divprune'.")
    named = [c for text in texts for c in _at_keeps(parse(text), keeps, methods is not None)]
    if stages is not None:
        kept = [c for c in named if c.method in REFERENCES or _has_stage(c.pipeline, stages)]
        if not kept:
            raise InputError(f"none of the methods acts at stage {stage!r}; got {', '.join(texts)}.")
        named = kept
    names = [str(c.pipeline) for c in named]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise InputError(f"methods names {twice!r} twice.")
    return named if only else [*_missing_references(names, keeps), *named]


def resolve(model: Any, choices: Sequence[Choice], details: Mapping[str, Any]) -> tuple[list[Entry], list[str]]:
    """Entries for what the model can carry, and a note for each method without one.

    `details` are those of all settings; each setting adds its fitted methods. Raises UnsupportedError for a pipeline
    that the user named and the model cannot carry, or if nothing is left.
    """
    adapter = find_adapter(model)
    entries: list[Entry] = []
    notes: dict[str, str] = {}
    for choice in choices:
        verdict = can_apply(model, choice.pipeline)
        if not verdict:
            if choice.asked:
                raise UnsupportedError(f"{choice.method}: {verdict}")
            notes[choice.method] = f"{choice.method} is left out: {verdict}"
            continue
        plan = make_plan(adapter, choice.pipeline, None)
        fitted = [*plan.rewriters, *plan.parts]
        own = {
            "methods": [describe_method(p.method) | {"budget": str(p.budget) if p.budget else None} for p in fitted],
            "positions": [p.method.card.positions for p in fitted],
        }
        if any("text_tower" in p.method.needs(adapter.info) for p in fitted):
            own["text_tower"] = identify_tower(companions_of(model).load_tower())  # there is one: `can_apply` looked
        setting = Setting(str(choice.pipeline), choice.method, choice.keep, {**details, **own})
        entries.append(Entry(choice.pipeline, setting))
    if not entries:
        raise UnsupportedError("this model can carry none of the methods: " + " ".join(notes.values()))
    return entries, list(notes.values())


def check_budgets(model: Any, entries: Sequence[Entry], inputs: Mapping[str, Any]) -> None:
    """Raise BudgetError for an entry whose first cut asks for more tokens than a prompt like `inputs` has."""
    adapter = find_adapter(model)
    layout = layout_of(adapter, inputs)
    if layout is None:
        raise UnsupportedError("the model's processor made a prompt without visual tokens.")
    for entry in entries:
        plan = make_plan(adapter, entry.pipeline, None)
        for step in [] if entry.rewrites else plan.steps(adapter, layout)[:1]:
            counts_of(step, layout, units_of(step, layout, plan.roles), plan.roles)


def describe_method(method: Method) -> dict[str, Any]:
    """Every field of a method as plain values, defaults included, so that a changed default is another setting."""
    fields = {f.name: _plain(getattr(method, f.name)) for f in dataclasses.fields(method)}  # type: ignore[arg-type]
    return {"id": method.id, "fields": fields}


def _plain(value: Any) -> Any:
    if isinstance(value, Method):
        return describe_method(value)
    if isinstance(value, PaperLayer):
        return int(value)
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def _at_keeps(pipeline: Pipeline, keeps: Sequence[str], asked: bool) -> list[Choice]:
    free = any(p.method.card.takes_keep and p.budget is None for p in pipeline.parts)
    if free and keeps:
        return [Choice(pipeline.with_budget(keep), str(pipeline), keep, asked) for keep in keeps]
    try:
        return [Choice(pipeline.with_budget(), str(pipeline), None, asked)]
    except BudgetError as error:
        hint = "" if keeps else " For all methods give keep, as in --keep 1/4,1/9."
        raise BudgetError(f"{error}{hint}") from None


def _registered() -> list[str]:
    """Every registered method, in the example of its card where it wraps another, without the example's budget."""
    out = []
    for name in method_modules():
        example = load_class(name).card.example
        if name in REFERENCES:
            continue
        parts = parse(example).parts if example else ()
        out.append(str(Pipeline((dataclasses.replace(parts[0], budget=None),))) if len(parts) == 1 else example or name)
    return out


def _has_stage(pipeline: Pipeline, stages: Sequence[str]) -> bool:
    return any(s in p.method.card.stages for p in pipeline.parts for s in stages)


def _missing_references(names: Sequence[str], keeps: Sequence[str]) -> list[Choice]:
    """The references that are registered and not named; the down-sampled picture at each keep."""
    out = []
    for reference in REFERENCES:
        if reference not in method_modules() or (load_class(reference).card.takes_keep and not keeps):
            continue
        out += [c for c in _at_keeps(parse(reference), keeps, asked=False) if str(c.pipeline) not in names]
    return out
