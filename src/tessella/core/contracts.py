"""The contracts of a method, chosen by what it returns: a score, picks, merged tokens, a schedule, new inputs.

A method is a frozen dataclass. Its fields are its hyper-parameters, its `card` says what it is, and one overridden
function does the work. Whatever changes while it runs lives in the view.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .budget import Budget, Counts, on_device
from .cards import Card, Count, Positions, Stage
from .errors import MethodError, UnsupportedError
from .layout import Layout
from .model_info import ModelInfo, PaperLayer, Part, fit_layers
from .reduction import Reduction
from .rewriting import Draft
from .view import Captures, Point, View

Reduce = Callable[[View, Counts], Reduction]
Expect = Callable[[Counts, Layout], float]


@dataclasses.dataclass(frozen=True)
class Step:
    """One cut: at which stage and layer, how many tokens, and by which function.

    `at_layer` is the first decoder layer that sees the shorter sequence (0 at the connector). `budget` is None where
    the method takes no keep.

    For methods that cut several times: `count` is what this cut promises where that is not what the card says;
    `of_first` counts the budget over the tokens in front of the method's first cut, not over those that are left;
    `expect` gives the tokens that a cut with a count of its own is expected to leave, for budgets over the layer mean.
    `positions` is the policy of this cut where it is not the card's.
    `part` numbers the part of a pipeline that it belongs to.
    """

    method: Method
    stage: Stage
    at_layer: int
    budget: Budget | None
    reduce: Reduce
    captures: Captures
    observes: tuple[Point, ...] = ()
    count: Count | None = None
    of_first: bool = False
    expect: Expect | None = None
    positions: Positions | None = None
    part: int = 0

    @property
    def promised_count(self) -> Count:
        """What this cut promises of its count."""
        return self.count or self.method.card.promised_count(self.budget is not None)


class Method(ABC):
    """Base of all methods. Subclasses are frozen dataclasses with a class attribute `card`."""

    card: ClassVar[Card]
    id: ClassVar[str] = ""  # the file name, set by @register

    def fit(self, info: ModelInfo) -> Method:
        """This method with its layers fitted to a model; the same object if nothing changes.

        Layers are fields whose default is a PaperLayer, `at_layer`, and fields with metadata `{"layer_of": part}`.
        Raises UnsupportedError if a layer that the user named is not in the model.
        """
        layers: dict[str, int] = {}
        parts: dict[str, Part] = {}
        changes: dict[str, Any] = {}
        several: dict[str, list[str]] = {}  # fields of more than one layer, and the names of those
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if isinstance(value, Method):
                changes[f.name] = value.fit(info)
            elif value is not None and (part := _part_of(f)) is not None:
                named = {f.name: value}
                if isinstance(value, tuple):
                    named = {f"{f.name}[{i}]": layer for i, layer in enumerate(value)}
                    several[f.name] = list(named)
                layers |= named
                parts |= dict.fromkeys(named, part)
        try:
            fitted = fit_layers(layers, parts, info)
        except UnsupportedError as error:
            raise UnsupportedError(f"{self.id}: {error}") from None
        for name, members in several.items():
            changes[name] = tuple(fitted.pop(member) for member in members)
        changes |= fitted
        same = all(getattr(self, n) == v and _kind(getattr(self, n)) == _kind(v) for n, v in changes.items())
        return self if same else dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """The cuts of this (fitted) method; by default one, at its field `at_layer` or at the connector."""
        at_layer = getattr(self, "at_layer", None) or 0
        stages = [s for s in self.card.stages if (s == "prefill") == (at_layer > 0)]
        if not stages:
            where = f"in front of decoder layer {at_layer}"
            raise UnsupportedError(f"{self.id} cannot act {where}; it acts at: {', '.join(self.card.stages)}.")
        return (Step(self, stages[0], at_layer, budget, self.reduce, self.captures(info), self.observes(info)),)

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        """What this method, with its settings, needs of a model (keys of `cards.NEEDS`); by default its card says."""
        return self.card.needs

    def captures(self, info: ModelInfo) -> Captures:
        """What the engine must record so that the view can answer this method."""
        return Captures()

    def remarks(self, info: ModelInfo) -> tuple[str, ...]:
        """What a report must say of this method on a model: a substitute that is on for something the model lacks."""
        return ()

    def observes(self, info: ModelInfo) -> tuple[Point, ...]:
        """Places at which `observe` is called while the prompt is read."""
        return ()

    def observe(
        self, view: View, point: Point, inputs: Float[Tensor, "B S C"], outputs: Float[Tensor, "B S C"]
    ) -> None:
        """Fold what went into the module at a point and what came out, of the whole sequence, into `view.state`.

        `view.places` says which token stands where; nothing of the two tensors is kept by the engine.
        """
        raise MethodError(f"{self.id} declares points to observe but does not define observe().")

    @abstractmethod
    def reduce(self, view: View, counts: Counts) -> Reduction:
        """Decide which tokens stay."""

    def __repr__(self) -> str:
        shown = [f"{n}={v!r}" for n, v in self.settings().items()]
        return f"{type(self).__name__}({', '.join(shown)})"

    def settings(self) -> dict[str, Any]:
        """Fields that differ from their defaults."""
        out = {}
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if value != f.default or (_is_paper(f.default) and not _is_paper(value)):
                out[f.name] = _plain(value)
        return out


class Scorer(Method):
    """A method that scores tokens; the base keeps the highest, earlier tokens first among equals.

    One that does more with its scores than that overrides `decide`, so that a corrector can still wrap it.
    """

    @abstractmethod
    def score(self, view: View) -> Float[Tensor, "B V"]:
        """A score per token, higher is kept."""

    def protect(self, view: View) -> Bool[Tensor, "B V"] | None:
        """Tokens that stay whatever their score (at most as many as are kept), or None."""
        return None

    def reduce(self, view: View, counts: Counts) -> Reduction:
        with view.clock("score"):
            scores = self.score(view)
        check_shape(self.id, "score", scores, view.mask)
        with view.clock("select"):
            return self.decide(scores, view, counts)

    def decide(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Reduction:
        """The answer by scores, which may be corrected ones."""
        keep = keep_highest(scores, counts, mask=view.mask, protected=self.protect(view))
        return Reduction(keep=keep, num_kept=counts.num_keep)


class Selector(Method):
    """A method that picks tokens one set at a time; the base makes the mask."""

    @abstractmethod
    def select(self, view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """Indices of kept tokens in the order taken, padded with -1."""

    def reduce(self, view: View, counts: Counts) -> Reduction:
        with view.clock("select"):
            picks = self.select(view, counts)
        exact = self.card.promised_count(counts.asked) == "exact"
        return Reduction(keep=mask_of(picks, view.mask.shape[1]), num_kept=counts.num_keep if exact else None)


class ScoredSelector(Selector):
    """A selector that goes by a score per token; `choose` takes any other method's score as well as its own."""

    @abstractmethod
    def score(self, view: View) -> Float[Tensor, "B V"]:
        """A score per token, higher is better."""

    @abstractmethod
    def choose(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Int[Tensor, "B K"]:
        """Indices of kept tokens by a score, in the order taken, padded with -1."""

    def select(self, view: View, counts: Counts) -> Int[Tensor, "B K"]:
        with view.clock("score"):
            scores = self.score(view)
        check_shape(self.id, "score", scores, view.mask)
        return self.choose(scores, view, counts)


@dataclasses.dataclass(frozen=True)
class Allocation:
    """How many tokens each group of an item may keep.

    `group [B, V]` is the number of each token's group, -1 for none; `quota [B, G]` how many it may keep. A row's quotas
    sum to what the item keeps, and none is larger than its group.
    """

    group: Int[Tensor, "B V"]
    quota: Int[Tensor, "B G"]


class Allocator(ABC):
    """Beside another contract: a method that divides a count among groups of tokens by any score."""

    @abstractmethod
    def allocate(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Allocation:
        """The groups of the tokens and their shares of `counts.num_keep`."""


class Merger(Method):
    """A method that answers with new tokens, merged from several."""

    @abstractmethod
    def merge(self, view: View, counts: Counts) -> Reduction:
        """Kept slots and their new embeddings."""

    def reduce(self, view: View, counts: Counts) -> Reduction:
        with view.clock("select"):
            return self.merge(view, counts)


class KeptMerger(Merger):
    """A merger that folds dropped tokens into a set of kept ones, which any other method may choose.

    Of a count it makes `reserved` tokens by itself (centres, a token that sums up the rest); `fold` is given the
    others.
    """

    @abstractmethod
    def kept(self, view: View, counts: Counts) -> Bool[Tensor, "B V"]:
        """The tokens that this method itself would keep before it folds the rest: all but `reserved`."""

    @abstractmethod
    def fold(self, kept: Bool[Tensor, "B V"], view: View, counts: Counts) -> Reduction:
        """Kept tokens with the others folded in; with its own tokens it keeps `counts.num_keep`."""

    def reserved(self, counts: Counts) -> tuple[int, ...]:
        """Tokens of each item's count that `fold` makes by itself; by default none."""
        return (0,) * len(counts.num_keep)

    def merge(self, view: View, counts: Counts) -> Reduction:
        return self.fold(self.kept(view, counts), view, counts)


class Corrector(Scorer):
    """A wrapper that corrects the scores of another scorer, held in the field `scorer`."""

    scorer: Scorer

    @abstractmethod
    def correct(self, scores: Float[Tensor, "B V"], view: View) -> Float[Tensor, "B V"]:
        """Corrected scores."""

    def score(self, view: View) -> Float[Tensor, "B V"]:
        return self.correct(self.scorer.score(view), view)

    def decide(self, scores: Float[Tensor, "B V"], view: View, counts: Counts) -> Reduction:
        return self.scorer.decide(scores, view, counts)

    def protect(self, view: View) -> Bool[Tensor, "B V"] | None:
        return self.scorer.protect(view)

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.card.needs, *self.scorer.needs(info))))

    def captures(self, info: ModelInfo) -> Captures:
        return self.scorer.captures(info)

    def observe(
        self, view: View, point: Point, inputs: Float[Tensor, "B S C"], outputs: Float[Tensor, "B S C"]
    ) -> None:
        self.scorer.observe(view, point, inputs, outputs)

    def observes(self, info: ModelInfo) -> tuple[Point, ...]:
        return self.scorer.observes(info)

    def remarks(self, info: ModelInfo) -> tuple[str, ...]:
        return self.scorer.remarks(info)

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """Those of the scorer; one that it does not take by its score stays as it is."""
        return tuple(
            dataclasses.replace(s, method=self, reduce=self.reduce if s.reduce == self.scorer.reduce else s.reduce)
            for s in self.scorer.steps(info, budget)
        )


class Schedule(Method):
    """A wrapper that cuts in front of several decoder layers, `layers`, by a method that cuts once, in `method`.

    A budget is what the last cut leaves; `left_after` says what the others do.
    """

    method: Method
    layers: tuple[int, ...]

    @abstractmethod
    def left_after(self, number: int, counts: Counts) -> tuple[int, ...]:
        """Tokens of each item behind cut `number`, 0 the first, where `counts` are those of the last one."""

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        """The wrapped method's cut in front of each layer. Raises MethodError where it has more cuts than one."""
        cuts = len(self.method.steps(info, budget))
        if cuts != 1:
            raise MethodError(f"{self.id} repeats a method that cuts once; {self.method.id} cuts {cuts} times.")
        out = []
        for number, layer in enumerate(map(int, self.layers)):
            (step,) = dataclasses.replace(self.method, at_layer=layer).steps(info, budget)  # type: ignore[type-var]
            is_last = number == len(self.layers) - 1
            out.append(
                dataclasses.replace(
                    step,
                    method=self,
                    reduce=partial(self.reduce_at, number, step.reduce),
                    count=None if is_last else "adaptive",
                    of_first=number > 0,
                    expect=None if is_last else partial(self.expect, number),
                )
            )
        return tuple(out)

    def reduce_at(self, number: int, reduce: Reduce, view: View, counts: Counts) -> Reduction:
        """The answer of one cut by the wrapped method, in front of that cut's layer."""
        planned = zip(self.left_after(number, counts), counts.num_tokens, strict=True)
        kept = tuple(min(k, n) for k, n in planned)  # earlier cuts may have left fewer than they were allowed
        return reduce(view, Counts(kept, counts.num_tokens, num_first=counts.num_first))

    def expect(self, number: int, counts: Counts, layout: Layout) -> float:
        """Tokens that cut `number` leaves."""
        return float(sum(self.left_after(number, counts)))

    def needs(self, info: ModelInfo) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.card.needs, *self.method.needs(info))))

    def remarks(self, info: ModelInfo) -> tuple[str, ...]:
        return self.method.remarks(info)

    def observe(
        self, view: View, point: Point, inputs: Float[Tensor, "B S C"], outputs: Float[Tensor, "B S C"]
    ) -> None:
        self.method.observe(view, point, inputs, outputs)

    def reduce(self, view: View, counts: Counts) -> Reduction:
        return self.method.reduce(view, counts)


class Rewriter(Method):
    """A method that changes the inputs: other pictures, another resolution, other placeholders."""

    @abstractmethod
    def rewrite(self, draft: Draft, counts: Counts) -> Draft:
        """The changed draft; the same object if nothing changes. `counts` says what each picture may keep."""

    def reduce(self, view: View, counts: Counts) -> Reduction:
        raise MethodError(f"{self.id} rewrites inputs; it does not cut tokens.")

    def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
        return (Step(self, "input", 0, budget, self.reduce, Captures()),)


CONTRACTS: Final = (Scorer, ScoredSelector, Selector, KeptMerger, Merger, Corrector, Schedule, Rewriter)  # narrow first


def keep_highest(
    scores: Float[Tensor, "B V"],
    counts: Counts,
    *,
    mask: Bool[Tensor, "B V"],
    protected: Bool[Tensor, "B V"] | None = None,
) -> Bool[Tensor, "B V"]:
    """Mask of the `counts.num_keep[b]` highest scores of each item; protected tokens first, then earlier ones at ties.

    >>> counts = Counts((2,), (4,))
    >>> keep_highest(torch.tensor([[1.0, 3.0, 3.0, 3.0]]), counts, mask=torch.ones(1, 4, dtype=torch.bool))
    tensor([[False,  True,  True, False]])
    """
    order = torch.sort(scores.float(), dim=1, descending=True, stable=True).indices
    rank = mask.long() if protected is None else mask.long() + (mask & protected).long()
    order = order.gather(1, torch.sort(rank.gather(1, order), dim=1, descending=True, stable=True).indices)
    num_keep = on_device(counts.num_keep, scores.device)
    taken = torch.arange(scores.shape[1], device=scores.device) < num_keep[:, None]
    return torch.zeros_like(mask).scatter(1, order, taken)


def mask_of(picks: Int[Tensor, "B K"], num_tokens: int) -> Bool[Tensor, "B V"]:
    """Mask of picked indices; -1 is padding.

    >>> mask_of(torch.tensor([[2, 0, -1]]), 4)
    tensor([[ True, False,  True, False]])
    """
    mask = torch.zeros(len(picks), num_tokens + 1, dtype=torch.bool, device=picks.device)
    index = torch.where(picks >= 0, picks, num_tokens)
    return mask.scatter(1, index, True)[:, :num_tokens]


def _part_of(field: dataclasses.Field[Any]) -> Part | None:
    """The part of the model whose layer a field names, or None if it names no layer."""
    first = field.default[0] if isinstance(field.default, tuple) and field.default else field.default
    if isinstance(first, PaperLayer):
        return first.part
    return field.metadata.get("layer_of", "decoder" if field.name == "at_layer" else None)


def _is_paper(value: object) -> bool:
    """Whether a setting is a paper's own layer, or several."""
    return isinstance(value[0] if isinstance(value, tuple) and value else value, PaperLayer)


def _kind(value: object) -> object:
    """The type of a setting, and of its members."""
    return tuple(map(type, value)) if isinstance(value, tuple) else type(value)


def _plain(value: Any) -> Any:
    """A setting as it is written: a paper's layers as numbers."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return int(value) if isinstance(value, PaperLayer) else value


def check_shape(method: str, what: str, given: Tensor, like: Tensor) -> None:
    """Raise MethodError unless a method's answer has one value per token."""
    if given.shape != like.shape:
        raise MethodError(f"{method}: {what} must be [B, V] = {tuple(like.shape)}; got {tuple(given.shape)}.")
