"""Scorers that cut at several layers: what they refuse, how many tokens each cut leaves, and what a model does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tessella
from tessella.core.budget import Budget, Counts
from tessella.core.cards import Card
from tessella.core.contracts import Corrector
from tessella.core.errors import BudgetError, MethodError, UnsupportedError
from tessella.core.layout import Layout
from tessella.core.model_info import ModelInfo, PaperLayer
from tessella.core.pipeline import Part, Pipeline
from tessella.core.progressive import Progressive, scaled
from tessella.core.view import Captures, Point, View
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.tiny import NUM_VISUAL, tiny_inputs, tiny_llava

INFO = default_info()
NUM_LAYERS = 8


@dataclass(frozen=True)
class Longest(Progressive):
    """Keeps the longest vectors; with the cuts of a paper of 32 layers."""

    layers: tuple[int, ...] = tuple(PaperLayer(n, depth=32) for n in (8, 16, 24))

    paper_ratios: ClassVar[tuple[float, ...]] = (0.5, 0.25, 0.125)
    id: ClassVar[str] = "longest"
    card = Card(
        title="Longest",
        stages=("prefill",),
        count="adaptive",
        count_reason="without a keep its ratios",
        exact_with_keep=True,
        rounding="floor",
        rounding_source="a test",
        baseline=True,
        newlines="compete",
        scope="prompt",
        unit="prompt",
    )

    def score(self, view: View) -> Tensor:
        return view.tokens.embeddings.float().norm(dim=2)

    def captures_at(self, layer: int) -> Captures:
        return Captures(decoder_inputs=(layer - 1,))

    def observes(self, info: ModelInfo) -> tuple[Point, ...]:
        return (Point(0),)

    def observe(self, view: View, point: Point, inputs: Tensor, outputs: Tensor) -> None:
        view.state["seen"] = view.state.get("seen", 0) + 1


@dataclass(frozen=True)
class Upside(Corrector):
    """Turns scores upside down."""

    scorer: Longest
    id: ClassVar[str] = "upside"
    card = dataclasses.replace(Longest.card, title="Upside")

    def correct(self, scores: Tensor, view: View) -> Tensor:
        return -scores

    def observes(self, info: ModelInfo) -> tuple[Point, ...]:
        return self.scorer.observes(info)


def layers_of(method: Any, inputs: dict[str, Tensor], keep: Any = None, scope: Any = None) -> tuple[int, ...]:
    """Visual tokens that each layer of a model sees."""
    part = Part(method, None if keep is None else Budget(keep, scope))
    with torch.no_grad(), tessella.reduce(tiny_llava(num_layers=NUM_LAYERS), Pipeline((part,))) as run:
        run.model(**inputs)
    assert run.report.last is not None
    return run.report.last.layers


# -- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": ()}, r"longest: layers must ascend, from 1 on; got \(\)\."),
        ({"layers": (4, 3)}, r"longest: layers must ascend, from 1 on; got \(4, 3\)\."),
        ({"layers": (3, 3)}, r"longest: layers must ascend, from 1 on; got \(3, 3\)\."),
        ({"layers": (0, 3)}, r"longest: layers must ascend, from 1 on; got \(0, 3\)\."),
        ({"layers": 3}, r"longest: layers must be a tuple of numbers; got 3\."),
        ({"layers": [3, 4]}, r"longest: layers must be a tuple of numbers; got \[3, 4\]\."),
        ({"ratios": 0.5}, r"longest: ratios must be a tuple of numbers; got 0\.5\."),
        ({"ratios": (0.5, 0.2)}, r"one number for each of the 3 layers \(8, 16, 24\); got \(0\.5, 0\.2\)\."),
        ({"ratios": (0.5, 0.6, 0.1)}, r"lie in \[0, 1\] and do not grow with depth; got \(0\.5, 0\.6, 0\.1\)\."),
        ({"ratios": (1.1, 0.6, 0.1)}, r"lie in \[0, 1\]"),
        ({"ratios": (0.5, 0.2, -0.1)}, r"lie in \[0, 1\]"),
        ({"ratios": (0.5, float("nan"), 0.1)}, r"lie in \[0, 1\]"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        Longest(**change)


def test_a_keep_and_ratios_are_one_too_many_and_other_layers_need_ratios() -> None:
    with pytest.raises(BudgetError, match=r"ratios=\(0\.9, 0\.5, 0\.1\) fix what is kept; leave out the keep of 4\."):
        Longest(ratios=(0.9, 0.5, 0.1)).steps(INFO, Budget(4))
    wanted = (
        r"give ratios and no keep, one for each of the 2 layers \(3, 5\); the paper's \(0\.5, 0\.25, 0\.125\) are for 3"
    )
    for budget in (None, Budget(4)):
        with pytest.raises(BudgetError, match=wanted):
            Longest(layers=(3, 5)).steps(INFO, budget)
    assert len(Longest(layers=(3, 5), ratios=(0.5, 0.5)).steps(INFO, None)) == 2


def test_layers_of_the_paper_scale_and_the_users_stand() -> None:
    small = dataclasses.replace(INFO, num_layers=NUM_LAYERS)
    assert Longest().fit(INFO) == Longest()
    assert Longest().fit(small).layers == (2, 4, 6)  # type: ignore[attr-defined]
    with pytest.raises(
        UnsupportedError, match=r"longest: layers\[1\]=8 is not a layer of this decoder; it has 8 layers"
    ):
        Longest(layers=(3, 8, 9)).fit(small)


def test_steps_say_what_each_cut_promises() -> None:
    asked, free = Longest().steps(INFO, Budget(4)), Longest().steps(INFO, None)
    assert [s.at_layer for s in asked] == [s.at_layer for s in free] == [8, 16, 24]
    assert [s.promised_count for s in asked] == ["adaptive", "adaptive", "exact"]
    assert [s.promised_count for s in free] == ["adaptive"] * 3
    assert [s.of_first for s in asked] == [False, True, True]
    assert [s.captures for s in asked] == [Captures(decoder_inputs=(n,)) for n in (7, 15, 23)]
    assert [s.observes for s in asked] == [(Point(0),), (), ()]  # once for all cuts


# -- counts ----------------------------------------------------------------------------------------------------------


def left(method: Longest, *there: int, keep: tuple[int, ...] | None = None) -> list[tuple[int, ...]]:
    """Tokens behind each cut."""
    counts = Counts(there, there, asked=False) if keep is None else Counts(keep, there)
    return [method.left_after(number, counts) for number in range(len(method.layers))]


def test_ratios_are_of_the_tokens_in_front_of_the_first_cut_and_cut_short() -> None:
    assert left(Longest(), 576, 100, 7) == [(288, 50, 3), (144, 25, 1), (72, 12, 1)]  # one stays where none would
    assert left(Longest(ratios=(0.3, 0.29, 0.0)), 100, 10) == [(30, 3), (28, 2), (1, 1)]  # as floats have it: 28.99...
    assert left(Longest(), 0) == [(0,), (0,), (0,)]


def test_a_keep_is_what_the_last_cut_leaves_and_scales_the_others() -> None:
    assert left(Longest(), 576, keep=(72,)) == left(Longest(), 576) == [(288,), (144,), (72,)]
    assert left(Longest(), 576, 100, keep=(36, 12)) == [(144, 50), (72, 25), (36, 12)]
    assert left(Longest(), 576, keep=(200,)) == [(576,), (400,), (200,)]  # at most all of them


@given(st.integers(1, 700), st.data())
def test_counts_never_grow_and_end_at_the_keep(there: int, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, there))
    counts = [n for (n,) in left(Longest(), there, keep=(keep,))]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == keep
    assert counts[0] <= there
    assert abs(counts[0] - min(there, 4 * keep)) <= 3  # int(n * ratio) of the last may leave up to a token out
    free = [n for (n,) in left(Longest(), there)]
    assert free == [max(1, int(there * r)) for r in (0.5, 0.25, 0.125)]


def test_scaling_is_exact() -> None:
    assert scaled(72, 576, 0.5, 0.125) == 288
    assert scaled(3, 1000, 0.3, 0.1) == 9  # 3 * 0.3 / 0.1 is 8.99... in floats
    assert scaled(28, 100, 0.7, 0.29) == 70  # int(100 * 0.29) is 28, so that it is the ratios' own number
    assert scaled(27, 100, 0.7, 0.29) == 65


def test_a_later_cut_takes_what_is_there() -> None:
    """An earlier one, or another method between them, may have left fewer than the ratios allow."""
    counts = Longest().counts_at(16, Counts((5,), (9,), num_first=(100,)))
    assert counts == Counts((9,), (9,), num_first=(100,))
    assert Longest().counts_at(24, Counts((5,), (9,), num_first=(100,))).num_keep == (5,)
    with pytest.raises(UnsupportedError, match=r"longest cuts in front of layers \(8, 16, 24\), not of layer 9\."):
        Longest().counts_at(9, counts)


def test_decide_keeps_the_highest_of_each_item_at_the_layer_of_the_view() -> None:
    layout = Layout.single(2, 1, 16)
    scores = torch.stack([torch.arange(16.0), -torch.arange(16.0)])
    for layer, count in ((8, 8), (16, 4), (24, 2)):
        view = ArrayView(embeddings=torch.zeros(2, 16, 3), layout=layout, at_layer=layer)
        out = Longest().decide(scores, view, Counts((16, 16), (16, 16), asked=False))
        assert out.num_kept == (count, count)
        assert [row.nonzero()[:, 0].tolist() for row in out.keep] == [list(range(16 - count, 16)), list(range(count))]


# -- on a model ------------------------------------------------------------------------------------------------------


def test_keeps_on_a_model() -> None:
    one, two = tiny_inputs((1,)), tiny_inputs((2,))
    assert layers_of(Longest(), one) == (16, 16, 8, 8, 4, 4, 2, 2)
    assert layers_of(Longest(), one, "1/8") == (16, 16, 8, 8, 4, 4, 2, 2)
    assert layers_of(Longest(), one, 3) == (16, 16, 12, 12, 6, 6, 3, 3)
    assert layers_of(Longest(), two, 3) == (32, 32, 24, 24, 12, 12, 6, 6)  # an int is of each picture
    assert layers_of(Longest(), two, 3, "image") == (32, 32, 24, 24, 12, 12, 6, 6)
    assert layers_of(Longest(), one, 1.0) == (16,) * 8
    assert layers_of(Longest(layers=(1, 5), ratios=(0.9, 0.3)), one) == (16, 14, 14, 14, 14, 4, 4, 4)
    with pytest.raises(BudgetError, match="keep=17 asks for 17 visual tokens per prompt, but only 16 are there"):
        layers_of(Longest(), one, 17)


def test_ratios_behind_another_cut_are_of_what_it_left() -> None:
    inputs = tiny_inputs((1,))
    pipeline = Pipeline((Part(tessella.make("divprune"), Budget(8)), Part(Longest(), None)))
    with torch.no_grad(), tessella.reduce(tiny_llava(num_layers=NUM_LAYERS), pipeline) as run:
        run.model(**inputs)
    assert run.report.last is not None
    assert run.report.last.layers == (8, 8, 4, 4, 2, 2, 1, 1)


@pytest.mark.parametrize("keep", ["1/2", "0.6", "0.9", 7, 10, 16])
@pytest.mark.parametrize("method", [Longest(), Longest(layers=(1, 2, 3))])
def test_a_layer_mean_is_met_as_nearly_as_whole_tokens_allow(method: Longest, keep: Any) -> None:
    target = Budget(keep).keep
    target = Fraction(target, NUM_VISUAL) if isinstance(target, int) else target
    cuts = method.layers if method.layers == (1, 2, 3) else (2, 4, 6)
    means = []
    for last in range(1, NUM_VISUAL + 1):
        of_cuts = [n for (n,) in left(method, NUM_VISUAL, keep=(last,))]
        seen = [[NUM_VISUAL, *of_cuts][sum(c <= layer for c in cuts)] for layer in range(NUM_LAYERS)]
        means.append(Fraction(sum(seen), NUM_LAYERS * NUM_VISUAL))
    layers = layers_of(method, tiny_inputs((1,)), keep, "layer-mean")
    got = Fraction(sum(layers), NUM_LAYERS * NUM_VISUAL)
    assert got in means
    assert abs(got - target) == min(abs(m - target) for m in means)


def test_a_layer_mean_out_of_reach_is_refused() -> None:
    with pytest.raises(BudgetError, match=r"a layer mean of 0\.3 is out of reach for longest: .* possible is 0\.3594"):
        layers_of(Longest(), tiny_inputs((1,)), 0.3, "layer-mean")


def test_a_corrector_has_the_cuts_and_counts_of_its_scorer() -> None:
    inputs = tiny_inputs((1,))
    for keep, layers in ((None, (16, 16, 8, 8, 4, 4, 2, 2)), (3, (16, 16, 12, 12, 6, 6, 3, 3))):
        assert layers_of(Upside(Longest()), inputs, keep) == layers
    view = ArrayView(embeddings=torch.arange(1.0, 17)[None, :, None], at_layer=16)
    counts = Counts((16,), (16,), asked=False)
    kept = [m.reduce(view, counts).keep[0].nonzero()[:, 0].tolist() for m in (Longest(), Upside(Longest()))]
    assert kept == [[12, 13, 14, 15], [0, 1, 2, 3]]
