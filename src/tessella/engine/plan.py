"""From a pipeline to the cuts of one model: layers fitted, needs checked, budgets solved."""

from __future__ import annotations

import functools
import operator
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import torch

from ..core.budget import Budget, Counts, Scope, decision_unit, divide, resolve_counts, round_count
from ..core.cards import NEEDS, Positions
from ..core.contracts import Method, Rewriter, Step
from ..core.errors import BudgetError, TessellaError, UnsupportedError
from ..core.layout import Layout, Unit, Units
from ..core.pipeline import Part, Pipeline, as_pipeline
from ..core.recipe import Recipe
from ..core.registry import methods
from ..core.roles import BY_CARD, RolePolicy
from ..core.view import Captures, Point
from ..models.adapter import Adapter, find_adapter
from .companions import companions_of
from .signature import check_recipes

ENGINE_STAGES = ("input", "connector", "prefill")


@dataclass(frozen=True)
class Verdict:
    """Whether a model can carry a method; if not, why, and the nearest method that works."""

    ok: bool
    reason: str = ""
    nearest: str | None = None

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        return "yes" if self.ok else self.reason + (f" Nearest: {self.nearest}." if self.nearest else "")


@dataclass(frozen=True)
class Plan:
    """The fitted parts of a pipeline for one model."""

    pipeline: Pipeline
    parts: tuple[Part, ...]
    rewriters: tuple[Part, ...]
    positions: Positions | None
    roles: RolePolicy
    notes: tuple[str, ...]
    captures: Captures
    observers: tuple[tuple[Method, Point], ...]

    def steps(self, adapter: Adapter, layout: Layout) -> list[Step]:
        """All cuts for a prompt, in order of layer. Budgets over the layer mean are solved here."""
        out: list[Step] = []
        for number, part in enumerate(self.parts):
            budget = part.budget
            if budget is not None and scope_of(part.method, budget) == "layer-mean":
                budget = solve_layer_mean(part.method, adapter, budget, layout, self.roles)
            out += (replace(step, part=number) for step in part.method.steps(adapter.info, budget))
        return out


def make_plan(adapter: Adapter, pipeline: Pipeline, positions: Positions | None, roles: RolePolicy = BY_CARD) -> Plan:
    """Check a pipeline against a model. Raises UnsupportedError or BudgetError, naming the method at fault."""
    if not pipeline.parts:
        raise UnsupportedError("the pipeline is empty.")
    if positions == "compact" and adapter.info.multi_axis_positions:
        raise UnsupportedError(
            "positions='compact' has no meaning on a model with multi-axis positions; use 'original'."
        )
    if positions not in (None, "original", "compact"):
        raise UnsupportedError(f"positions must be 'original' or 'compact'; got {positions!r}.")
    check_attention(adapter)
    fitted: list[Part] = []
    rewriters: list[Part] = []
    notes: list[str] = []
    steps: list[Step] = []
    for part in pipeline.parts:
        check_method(adapter, part.method)
        method = part.method.fit(adapter.info)
        if method != part.method:
            changed = {k: v for k, v in vars(method).items() if v != getattr(part.method, k)}
            layers = ", ".join(f"{k}={v}" for k, v in changed.items())
            notes.append(f"{method.id}: layers fitted to this model: {layers}")
        notes += [f"{method.id}: {remark}" for remark in method.remarks(adapter.info)]
        (rewriters if isinstance(method, Rewriter) else fitted).append(Part(method, part.budget))
        steps += method.steps(adapter.info, part.budget)  # refuses impossible layers before anything runs
    check_order(pipeline, steps)
    captures = join_captures(s.captures for s in steps)
    if captures.text_tower:  # it compares the question with the encoder's last outputs
        last = Captures(encoder_hidden=(adapter.info.num_encoder_layers - 1,))
        captures = join_captures((captures, last))
    observers = dict.fromkeys((s.method, point) for s in steps for point in s.observes)
    return Plan(
        pipeline,
        tuple(fitted),
        tuple(rewriters),
        positions,
        roles,
        tuple(notes),
        captures,
        tuple(observers),
    )


def check_attention(adapter: Adapter) -> None:
    """Raise UnsupportedError where the attention implementation counts a window in tokens that are left."""
    implementation = adapter.language_model.config._attn_implementation or ""
    layers = range(adapter.info.num_layers)
    if "flash" in implementation and any(adapter.mask_rule(n) is not None for n in layers):
        raise UnsupportedError(
            f"{implementation!r} counts the sliding windows of this {adapter.info.family} model in tokens, of which a "
            "reduction leaves fewer; load the model with attn_implementation='sdpa'."
        )


def check_order(pipeline: Pipeline, steps: list[Step]) -> None:
    """Raise UnsupportedError unless the cuts are written in the order in which the layers run."""
    cuts = [s.at_layer for s in steps]
    if cuts != sorted(cuts):
        raise UnsupportedError(f"the steps of '{pipeline}' act at layers {cuts}; write them in ascending order.")
    is_input = [s.stage == "input" for s in steps]
    if is_input != sorted(is_input, reverse=True):
        late = next(
            s.method.id for s, before in zip(steps[1:], is_input, strict=False) if s.stage == "input" and not before
        )
        raise UnsupportedError(f"{late} rewrites the inputs, so it comes first; '{pipeline}' names it behind a cut.")


def join_captures(several: Iterable[Captures]) -> Captures:
    """All that any of several captures names."""
    return functools.reduce(operator.or_, several, Captures())


def check_method(adapter: Adapter, method: Method) -> None:
    """Raise UnsupportedError unless the adapter has what the method needs."""
    missing = [n for n in method.needs(adapter.info) if n not in adapter.capabilities]
    if missing:
        what = NEEDS[missing[0]]
        nearest = _nearest(adapter, method)
        hint = f" Nearest: {nearest}." if nearest else ""
        raise UnsupportedError(f"{method.id} needs {what}; this {adapter.info.family} model has none.{hint}")
    if not any(stage in ENGINE_STAGES for stage in method.card.stages):
        raise UnsupportedError(
            f"{method.id} acts at {', '.join(method.card.stages)}, which the engine does not cut yet."
        )


def can_apply(model: object, method: str | Method | Recipe | Pipeline) -> Verdict:
    """Whether a model can carry a method, recipe or pipeline, or the reason why not.

    Raises UnknownMethodError or MethodError for a text that names no method.
    """
    pipeline = as_pipeline(method)
    try:
        adapter = model if isinstance(model, Adapter) else find_adapter(model)  # type: ignore[arg-type]
        check_recipes(pipeline, adapter.entry if isinstance(model, Adapter) else model, adapter)  # type: ignore[arg-type]
        for part in pipeline.parts:
            check_method(adapter, part.method)
            part.method.fit(adapter.info)
            if not isinstance(model, Adapter):
                companions_of(model).check(part.method, adapter.info)  # type: ignore[arg-type]
    except TessellaError as error:
        text = str(error)
        reason, _, nearest = text.partition(" Nearest: ")
        return Verdict(False, reason, nearest.rstrip(".") or None)
    return Verdict(True)


def scope_of(method: Method, budget: Budget) -> Scope:
    """The scope of a budget: its own, or the default of the method's card."""
    return budget.scope or method.card.scope


def units_of(step: Step, layout: Layout, roles: RolePolicy = BY_CARD) -> Units:
    """The groups among which a step decides."""
    card = step.method.card
    scope = card.scope if step.budget is None else scope_of(step.method, step.budget)
    without = frozenset(role for role in roles.without(card) if layout.has(role))
    return layout.split(decision_unit(scope, card.unit), without)


def counts_of(
    step: Step, layout: Layout, units: Units, roles: RolePolicy = BY_CARD, first: Layout | None = None
) -> Counts:
    """How many tokens each group keeps. `first`: the layout in front of the method's first cut, for later ones."""
    card, there = step.method.card, units.num_tokens
    scope = card.scope if step.budget is None else scope_of(step.method, step.budget)

    def resolve(over: Layout, groups: Units) -> Counts:
        if step.budget is None:
            return Counts(groups.num_tokens, groups.num_tokens, asked=False)
        return resolve_counts(step.budget, over, groups, scope=scope, rounding=card.rounding, min_keep=card.min_keep)

    if not step.of_first or first is None:
        return resolve(layout, units)
    then = units_of(step, first, roles)
    whole, names = resolve(first, then), _names(units)
    before = dict(zip(_names(then), zip(whole.num_keep, whole.num_tokens, strict=True), strict=True))
    num_first = tuple(before[name][1] for name in names)
    if step.budget is None:
        return Counts(there, there, asked=False, num_first=num_first)
    num_keep = tuple(before[name][0] for name in names)
    if step.promised_count != "exact":
        num_keep = tuple(map(min, num_keep, there))
    if any(k > n for k, n in zip(num_keep, there, strict=True)):
        raise BudgetError(
            f"{step.method.id}: {max(num_keep)} tokens asked for in front of layer {step.at_layer}, where earlier cuts "
            f"have left {min(there)}; what is kept cannot grow with depth."
        )
    return Counts(num_keep, there, num_first=num_first)


def _names(units: Units) -> list[tuple[int, ...]]:
    """What tells each group from the others, before and after a cut."""
    columns: dict[Unit, tuple[str, ...]] = {
        "prompt": (),
        "image": ("image",),
        "tile": ("image", "frame", "tile"),
        "frame": ("image", "frame"),
    }
    first = (getattr(units.layout, c)[:, :1].flatten().tolist() for c in columns[units.unit])
    return list(zip(units.source_row, *first, strict=True))


def mean_keep_ratio(tokens_by_layer: list[int], num_tokens: int) -> float:
    """Average over decoder layers of the share of visual tokens that a layer sees."""
    return sum(tokens_by_layer) / (len(tokens_by_layer) * num_tokens) if num_tokens else 1.0


def solve_layer_mean(
    method: Method, adapter: Adapter, budget: Budget, layout: Layout, roles: RolePolicy = BY_CARD
) -> Budget:
    """The budget after the last cut whose mean over all layers comes closest to what was asked.

    It is worked out for tokens that compete; newlines that follow them are kept in about the same share.
    Raises BudgetError where the layers in front of the first cut alone already exceed it, or where an int cannot mean
    the same share for all images of the batch.
    """
    images = layout.split("image", frozenset(r for r in roles.without(method.card) if layout.has(r)))
    sizes = set(images.num_tokens)
    keep = budget.keep
    if isinstance(keep, int):
        if len(sizes) > 1:
            raise BudgetError(
                f"keep={keep} per layer-mean on images of {sorted(sizes)} tokens; give a fraction instead."
            )
        if keep > min(sizes, default=keep):
            raise BudgetError(f"keep={keep} per layer-mean is more than the {min(sizes)} visual tokens there are.")
    size = max(sizes, default=0)
    if size == 0:
        return Budget(Fraction(1), "image")
    target = Fraction(keep, size) if isinstance(keep, int) else keep
    largest = images.num_tokens.index(size)
    image = images.layout.gather(torch.arange(size)[None], (largest,))
    units = [units_of(s, image, roles) for s in method.steps(adapter.info, Budget(Fraction(1)))]
    keeps = range(max(method.card.min_keep, 1), size + 1)

    @functools.cache
    def mean(keep: int) -> Fraction:
        return _layer_mean(method, adapter, Fraction(keep, size), size, units)

    def first_with(share: Fraction) -> int:
        """How many keeps have a smaller mean; a method that is asked for more does not leave less."""
        return bisect_left(keeps, share, key=mean)

    least = mean(keeps[0])
    if target < least:
        raise BudgetError(
            f"a layer mean of {float(target):.4g} is out of reach for {method.id}: the layers in front of its cuts see "
            f"every token; the least possible is {float(least):.4g}."
        )
    above = first_with(target)
    below = first_with(mean(keeps[above - 1])) if above else above
    best = min((keeps[n] for n in {below, min(above, len(keeps) - 1)}), key=lambda k: (abs(mean(k) - target), k))
    return Budget(Fraction(best, size), "image")


def _layer_mean(method: Method, adapter: Adapter, keep: Fraction, size: int, units: list[Units]) -> Fraction:
    """Mean share of an image of `size` tokens; `units` are its groups at each cut, before anything is removed."""
    steps = method.steps(adapter.info, Budget(keep))
    depth = adapter.info.num_layers
    tokens: int | Fraction = size
    total = tokens * steps[0].at_layer
    for step, end, groups in zip(steps, [*[s.at_layer for s in steps[1:]], depth], units, strict=True):
        if step.budget is not None:  # a cut without one leaves what it finds, unless it says otherwise
            part, card = step.budget.keep, method.card
            of = size if step.of_first else tokens
            left = part if isinstance(part, int) else max(round_count(part * of, card.rounding), card.min_keep)
            tokens = left
            if step.expect is not None:
                shares = divide(left, groups.num_tokens)
                tokens = Fraction(step.expect(Counts(tuple(shares), groups.num_tokens), groups.layout))
        elif step.expect is not None:
            free = Counts(groups.num_tokens, groups.num_tokens, asked=False)
            tokens = Fraction(step.expect(free, groups.layout))
        total += tokens * (end - step.at_layer)
    return Fraction(total, depth * size)


def _nearest(adapter: Adapter, method: Method) -> str | None:
    """The method closest in stage and needs that this model can carry."""
    if method.card.nearest:
        return method.card.nearest
    wanted = set(method.card.needs)
    best: tuple[int, str] | None = None
    for method_id, cls in methods(baseline=False).items():
        usable = all(n in adapter.capabilities for n in cls.card.needs)
        if method_id == method.id or not usable or not set(cls.card.stages) & set(method.card.stages):
            continue
        rank = (-len(wanted & set(cls.card.needs)), method_id)
        best = min(best, rank) if best else rank
    return best[1] if best else None
