"""Contracts of methods: what the base does with scores, picks, layers and needs."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tessella.core import errors
from tessella.core.budget import Budget, Counts
from tessella.core.cards import Card
from tessella.core.contracts import Corrector, Method, Rewriter, Schedule, Scorer, Selector, Step, keep_highest, mask_of
from tessella.core.errors import MethodError, TessellaError, UnsupportedError
from tessella.core.model_info import ModelInfo, PaperLayer, fit_layers
from tessella.core.reduction import Reduction
from tessella.core.registry import make
from tessella.core.rewriting import Draft
from tessella.core.view import Captures, Point, View
from tessella.testing import ArrayView

INFO = ModelInfo("toy", 32, 24, 22, True, 64, 4)
CARD = Card(title="Toy", stages=("connector", "prefill"), needs=("features",), baseline=True)


@dataclass(frozen=True)
class Loud(Scorer):
    """Keeps the largest first channel; may protect the last token."""

    at_layer: int = PaperLayer(3, depth=32)
    guard: bool = False

    card = CARD
    id = "loud"

    def captures(self, info: ModelInfo) -> Captures:
        return Captures(decoder=(self.at_layer,))

    def score(self, view: View) -> Float[Tensor, "B V"]:
        return view.tokens.embeddings[:, :, 0]

    def protect(self, view: View) -> Bool[Tensor, "B V"] | None:
        return torch.arange(view.mask.shape[1]).expand_as(view.mask) == 3 if self.guard else None


@dataclass(frozen=True)
class First(Selector):
    """Picks the first tokens, in descending order."""

    card = dataclasses.replace(CARD, count="at_most", count_reason="a toy")
    id = "first"

    def select(self, view: View, counts: Counts) -> Int[Tensor, "B K"]:
        return torch.arange(counts.most).flip(0).expand(len(view.mask), -1)


@dataclass(frozen=True)
class Upside(Corrector):
    scorer: Scorer = field(default_factory=Loud)

    card = dataclasses.replace(CARD, needs=("pixels", "features"), example="upside")
    id = "upside"

    def correct(self, scores: Float[Tensor, "B V"], view: View) -> Float[Tensor, "B V"]:
        return -scores


@dataclass(frozen=True)
class Twice(Schedule):
    """Half of the tokens in front of layer 4, and what is asked for in front of layer 8."""

    method: Method = field(default_factory=Loud)
    layers: tuple[int, ...] = (4, 8)

    card = dataclasses.replace(CARD, needs=(), example="twice")
    id = "twice"

    def left_after(self, number: int, counts: Counts) -> tuple[int, ...]:
        return counts.num_keep if number else tuple(n // 2 for n in counts.originally)


@dataclass(frozen=True)
class Smaller(Rewriter):
    card = dataclasses.replace(CARD, stages=("input",))
    id = "smaller"

    def rewrite(self, draft: Draft, counts: Counts) -> Draft:
        return draft


VIEW = ArrayView(embeddings=torch.tensor([[0.1, 0.9, 0.5, 0.2], [0.3, 0.3, 0.3, 9.0]])[:, :, None], num_tokens=(4, 3))


def kept(reduction: Reduction) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in reduction.keep]


# -- keeping the highest ---------------------------------------------------------------------------------------------


@given(data=st.data(), there=st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_keep_highest_equals_the_reference(data: st.DataObject, there: list[int]) -> None:
    size = (len(there), max(there))
    area = {"min_size": size[0] * size[1], "max_size": size[0] * size[1]}
    scores = torch.tensor(data.draw(st.lists(st.integers(-2, 2), **area))).float().reshape(size)
    guard = torch.tensor(data.draw(st.lists(st.booleans(), **area))).reshape(size)
    keep = [data.draw(st.integers(0, n)) for n in there]
    mask = torch.arange(size[1]) < torch.tensor(there)[:, None]
    got = keep_highest(scores, Counts(tuple(keep), tuple(there)), mask=mask, protected=guard)
    for b, (n, k) in enumerate(zip(there, keep, strict=True)):
        want = sorted(range(n), key=lambda i: (not guard[b, i], -float(scores[b, i]), i))[:k]
        assert got[b].nonzero()[:, 0].tolist() == sorted(want)


def test_mask_of_ignores_padding() -> None:
    assert mask_of(torch.tensor([[2, -1, -1], [0, 3, 1]]), 4).tolist() == [
        [False, False, True, False],
        [True, True, False, True],
    ]
    assert mask_of(torch.zeros(2, 0, dtype=torch.long), 3).sum() == 0


def test_scorer_keeps_the_highest() -> None:
    counts = Counts((2, 2), (4, 3))
    reduction = Loud().reduce(VIEW, counts)
    assert kept(reduction) == [[1, 2], [0, 1]]  # ties: the earlier token; the loud padding is no token
    assert reduction.num_kept == (2, 2)
    assert kept(Loud(guard=True).reduce(VIEW, counts)) == [[1, 3], [0, 1]]


def test_selector_says_a_count_only_if_it_is_exact() -> None:
    reduction = First().reduce(VIEW, Counts((2, 2), (4, 3)))
    assert kept(reduction) == [[0, 1], [0, 1]]
    assert reduction.num_kept is None


def test_wrong_shape_is_named() -> None:
    class Narrow(Loud):
        def score(self, view: View) -> Float[Tensor, "B V"]:
            return torch.zeros(2, 3)

    with pytest.raises(MethodError, match=r"loud: score must be \[B, V\] = \(2, 4\); got \(2, 3\)\."):
        Narrow().reduce(VIEW, Counts((2, 2), (4, 3)))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_kept": (1, 2, 3)}, "num_kept has 3 counts for 2 items"),
        ({"keep": torch.ones(4, dtype=torch.bool)}, r"keep must be \[B, V\]; got shape \(4,\)"),
        ({"space": "pixels"}, "space must be 'encoder' or 'projected'; got 'pixels'"),
    ],
)
def test_reductions_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    reduction = Reduction(torch.ones(2, 4, dtype=torch.bool))
    reduction.__dict__.update(arguments)  # past the annotations, which only tests execute
    with pytest.raises(MethodError, match=message):
        reduction.__post_init__()


# -- steps -----------------------------------------------------------------------------------------------------------


def test_steps_follow_the_layer() -> None:
    budget = Budget(5)
    assert [(s.stage, s.at_layer, s.budget, s.captures.decoder) for s in Loud().steps(INFO, budget)] == [
        ("prefill", 3, budget, (3,))
    ]
    assert [(s.stage, s.at_layer) for s in Loud(at_layer=0).steps(INFO, budget)] == [("connector", 0)]
    assert [s.stage for s in First().steps(INFO, budget)] == ["connector"]
    method = make("divprune")
    object.__setattr__(method, "at_layer", 3)
    with pytest.raises(UnsupportedError, match="divprune cannot act in front of decoder layer 3; it acts at: conn"):
        method.steps(INFO, budget)


def test_corrector_acts_where_its_scorer_acts() -> None:
    method = Upside(Loud(at_layer=7, guard=True))
    (step,) = method.steps(INFO, Budget(2))
    assert (step.method, step.at_layer, step.captures) == (method, 7, Captures(decoder=(7,)))
    assert kept(step.reduce(VIEW, Counts((2, 2), (4, 3)))) == [[0, 3], [0, 1]]  # lowest, and the protected one
    assert method.needs(INFO) == ("pixels", "features")
    assert method.captures(INFO) == Captures(decoder=(7,))


def test_corrector_leaves_steps_alone_that_go_by_no_score() -> None:
    class Prepared(Loud):
        def steps(self, info: ModelInfo, budget: Budget | None) -> tuple[Step, ...]:
            first = Step(self, "connector", 0, budget, self.prepare, Captures())
            return (first, *super().steps(info, budget))

        def prepare(self, view: View, counts: Counts) -> Reduction:
            return Reduction(view.mask)

    scorer = Prepared()
    method = Upside(scorer)
    first, second = method.steps(INFO, Budget(2))
    assert (first.reduce, second.reduce) == (scorer.prepare, method.reduce)
    assert (first.method, second.method) == (method, method)


def test_schedule_repeats_its_method() -> None:
    method = Twice()
    steps = method.steps(INFO, Budget(1))
    assert [(s.method, s.at_layer, s.budget, s.of_first) for s in steps] == [
        (method, 4, Budget(1), False),
        (method, 8, Budget(1), True),
    ]
    assert [s.promised_count for s in steps] == ["adaptive", "exact"]
    assert [s.captures.decoder for s in steps] == [(4,), (8,)]
    assert method.needs(INFO) == ("features",)
    assert steps[0].expect is not None
    assert steps[0].expect(Counts((1, 1), (4, 3)), VIEW.layout) == 3.0
    assert steps[1].expect is None


def test_schedule_says_how_many_each_cut_leaves() -> None:
    first, last = Twice().steps(INFO, Budget(1))
    assert kept(first.reduce(VIEW, Counts((1, 1), (4, 3)))) == [[1, 2], [0]]
    assert kept(last.reduce(VIEW, Counts((1, 1), (4, 3), num_first=(9, 9)))) == [[1], [0]]
    few = first.reduce(VIEW, Counts((1, 1), (4, 3), num_first=(16, 2)))  # earlier cuts have left fewer than half
    assert (kept(few), few.num_kept) == ([[0, 1, 2, 3], [0]], (4, 1))
    with pytest.raises(MethodError, match="twice repeats a method that cuts once; pyramiddrop cuts 3 times"):
        Twice(make("pyramiddrop")).steps(INFO, Budget(1))


def test_rewriter_cuts_nothing() -> None:
    assert [(s.stage, s.at_layer) for s in Smaller().steps(INFO, Budget(5))] == [("input", 0)]
    with pytest.raises(MethodError, match="smaller rewrites inputs; it does not cut tokens"):
        Smaller().reduce(VIEW, Counts((1, 1), (4, 3)))


def test_observe_must_be_defined() -> None:
    with pytest.raises(MethodError, match="loud declares points to observe but does not define observe"):
        Loud().observe(VIEW, Point(1), VIEW.tokens.embeddings, VIEW.tokens.embeddings)
    assert Loud().observes(INFO) == ()


# -- layers ----------------------------------------------------------------------------------------------------------


def fitted(layers: dict[str, int], decoder: int = 32, encoder: int = 24, **parts: str) -> dict[str, int]:
    info = dataclasses.replace(INFO, num_layers=decoder, num_encoder_layers=encoder)
    return fit_layers(layers, {n: parts.get(n, "decoder") for n in layers}, info)  # type: ignore[misc]


def paper(*layers: int, depth: int = 32) -> dict[str, int]:
    return {f"l{i}": PaperLayer(n, depth) for i, n in enumerate(layers)}


@pytest.mark.parametrize(
    "layers, depth, want",
    [
        ((2, 16, 24), 32, [2, 16, 24]),  # all inside: they stand
        ((2, 16, 24), 28, [2, 16, 24]),
        ((2, 16, 24), 24, [2, 12, 18]),  # one does not fit: all scale
        ((8, 16, 24), 12, [3, 6, 9]),
        ((2,), 2, [1]),  # never layer 0
        ((24, 2, 16), 8, [6, 1, 4]),  # by layer, not by the order of fields
        ((7, 8, 31), 8, [2, 3, 8]),
    ],
)
def test_paper_layers(layers: tuple[int, ...], depth: int, want: list[int]) -> None:
    if want[-1] >= depth:
        with pytest.raises(
            UnsupportedError, match=f"l2={want[-1]} is not a layer of this decoder; it has 8 layers: 0 "
        ):
            fitted(paper(*layers), depth)
    else:
        assert list(fitted(paper(*layers), depth).values()) == want


@given(layers=st.sets(st.integers(1, 31), min_size=1, max_size=4), depth=st.integers(1, 40))
def test_paper_layers_ascend_inside_the_model(layers: set[int], depth: int) -> None:
    ascending = sorted(layers)
    try:
        got = list(fitted(paper(*ascending), depth).values())
    except UnsupportedError:
        assert ascending[-1] >= depth
        return
    assert got == sorted(set(got))
    assert 0 < got[0] <= got[-1] < depth
    assert got == ascending or ascending[-1] >= depth


def test_named_layers_stand_or_are_refused() -> None:
    assert fitted({"a": 31}) == {"a": 31}
    with pytest.raises(UnsupportedError, match="a=32 is not a layer of this decoder; it has 32 layers: 0 to 31"):
        fitted({"a": 32})
    with pytest.raises(UnsupportedError, match="e=24 is not a layer of this encoder; it has 24 layers: 0 to 23"):
        fitted({"e": 24}, e="encoder")
    mixed = fitted({"named": 5, "paper": PaperLayer(24, 32)}, decoder=8)
    assert mixed == {"named": 5, "paper": 6}  # only the paper's scale


def test_parts_scale_apart() -> None:
    layers = {"e": PaperLayer(20, 24, "encoder"), "d": PaperLayer(16, 32)}
    assert fitted(layers, decoder=32, encoder=12, e="encoder") == {"e": 10, "d": 16}


def test_fit_reaches_methods_inside_methods() -> None:
    shallow = dataclasses.replace(INFO, num_layers=2)
    assert Upside().fit(shallow).scorer.at_layer == 1  # type: ignore[attr-defined]
    assert Twice().fit(shallow).method.at_layer == 1  # type: ignore[attr-defined]
    with pytest.raises(UnsupportedError, match="loud: at_layer=5 is not a layer"):
        Upside(Loud(at_layer=5)).fit(shallow)
    plain = make("divprune")
    assert plain.fit(INFO) is plain


# -- how a method shows itself ---------------------------------------------------------------------------------------


def test_repr_shows_what_differs_from_the_paper() -> None:
    assert repr(make("hiprune")) == "HiPrune()"
    assert repr(make("hiprune", alpha=0.2, object_layer=15)) == "HiPrune(alpha=0.2, object_layer=15)"
    assert repr(make("fastv", at_layer=2)) == "FastV(at_layer=2)"  # the layer itself, not the paper's
    assert make("fastv").settings() == {}
    assert make("fastv", at_layer=2).settings() == {"at_layer": 2}
    assert make("fastv").fit(INFO).settings() == {"at_layer": 2}
    layer = PaperLayer(8, 24, "encoder")
    assert (layer, layer.depth, layer.part) == (8, 24, "encoder")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"stages": ("after-encoder",)}, "card field stages: 'after-encoder' is not allowed; allowed: input, encoder"),
        ({"needs": ("telepathy",)}, "card field needs: 'telepathy' is not allowed; allowed: features"),
        ({"scope": "crop"}, "card field scope: 'crop'"),
        ({"unit": "crop"}, "card field unit: 'crop'"),
        ({"positions": "gappy"}, "card field positions: 'gappy'"),
        ({"rounding": "up"}, "card field rounding: 'up'"),
        ({"count": "adaptive"}, "needs a count_reason from the specification"),
        ({"rounding": "floor"}, "needs a rounding_source"),
        ({"exact_with_keep": True}, "exact_with_keep is for count='adaptive'; got 'exact'"),
    ],
)
def test_cards_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    card = copy.copy(CARD)
    card.__dict__.update(change)  # past the annotations, which only tests execute
    with pytest.raises(MethodError, match=message):
        card.__post_init__()


def test_promised_count_depends_on_whether_a_keep_is_given() -> None:
    free = dataclasses.replace(CARD, count="adaptive", count_reason="a toy")
    both = dataclasses.replace(free, exact_with_keep=True)
    assert [CARD.promised_count(a) for a in (True, False)] == ["exact", "exact"]
    assert [free.promised_count(a) for a in (True, False)] == ["adaptive", "adaptive"]
    assert [both.promised_count(a) for a in (True, False)] == ["exact", "adaptive"]


def test_errors_have_one_root_and_the_builtin_a_caller_expects() -> None:
    builtin = {
        "BudgetError": ValueError,
        "InputError": ValueError,
        "LayoutError": ValueError,
        "MethodError": ValueError,
        "RegistryError": RuntimeError,
        "UnknownMethodError": KeyError,
        "UnsupportedError": RuntimeError,
    }
    found = {n: e for n, e in vars(errors).items() if isinstance(e, type) and e is not TessellaError}
    assert set(found) == set(builtin)
    for name, cls in found.items():
        assert issubclass(cls, TessellaError)
        assert issubclass(cls, builtin[name])
        assert str(cls("no 'x'.")) == "no 'x'."  # KeyError would quote it
        assert name in (errors.__doc__ or "")
