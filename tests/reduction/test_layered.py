"""Layered: what each cut leaves, by shape and by ratios; the same as the cuts of its method one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tessella
from tessella.core.budget import Budget, Counts
from tessella.core.errors import BudgetError, MethodError, UnsupportedError
from tessella.core.layout import Layout
from tessella.core.model_info import ModelInfo
from tessella.core.pipeline import parse
from tessella.core.registry import make
from tessella.testing import check_method
from tessella.testing.families import tiny_family
from tessella.testing.tiny import NUM_VISUAL, tiny_inputs, tiny_llava

INFO = ModelInfo("toy", 32, 24, 22, True, 64, 4)


def left(method: Any, num_keep: int, num_first: int) -> list[int]:
    counts = Counts((num_keep,), (num_first,))
    return [method.left_after(number, counts)[0] for number in range(len(method.layers))]


@pytest.mark.parametrize(
    ("settings", "keep", "want"),
    [
        ({}, 72, [288, 144, 72]),
        ({"shape": "linear"}, 72, [408, 240, 72]),
        ({"shape": "quadratic"}, 72, [520, 352, 72]),
        ({"shape": "cosine"}, 72, [450, 198, 72]),
        ({"layers": (4, 24)}, 72, [round(576 * 8 ** (-1 / 6)), 72]),
        ({}, 576, [576, 576, 576]),
        ({}, 1, [69, 8, 1]),
    ],
)
def test_a_keep_is_what_the_last_cut_leaves(settings: dict[str, Any], keep: int, want: list[int]) -> None:
    assert left(make("layered", method=make("fastv"), **settings), keep, 576) == want


def test_ratios_are_of_the_first_count_and_round_as_the_method_does() -> None:
    method = make("layered", method=make("fastv"), layers=(2, 5, 9), ratios=(0.5, 0.25, 0.01))
    assert left(method, 0, 33) == [17, 9, 1]  # FastV rounds up
    assert left(make("layered", method=make("random"), layers=(2, 5, 9), ratios=(0.5, 0.25, 0.01)), 0, 33) == [
        16,
        8,
        1,
    ]


def test_every_cut_reads_its_own_layer() -> None:
    steps = make("layered", method=make("fastv")).steps(INFO, Budget(9))
    assert [(s.at_layer, s.captures.decoder, s.of_first) for s in steps] == [
        (8, (7,), False),
        (16, (15,), True),
        (24, (23,), True),
    ]
    assert [s.promised_count for s in steps] == ["adaptive", "adaptive", "exact"]
    assert steps[0].expect is not None
    assert steps[0].expect(Counts((72, 9), (576, 9)), Layout.single(1, 1, 1)) == 288 + 9


def test_the_card_is_that_of_its_method() -> None:
    card = make("layered", method=make("fastv")).card
    host = make("fastv").card
    names = ("unit", "scope", "newlines", "rounding", "positions", "prompt_dependent", "needs", "count", "min_keep")
    assert [getattr(card, n) for n in names] == [getattr(host, n) for n in names]
    assert (card.paper, card.stages, card.takes_keep) == (None, ("prefill",), True)
    fixed = make("layered", method=make("fastv"), layers=(2,), ratios=(0.5,)).card
    assert (fixed.takes_keep, fixed.count) == (False, "adaptive")


def test_layers_follow_the_depth_of_the_model() -> None:
    shallow = make("layered", method=make("fastv")).fit(ModelInfo("toy", 8, 4, 2, True, 64, 4))
    assert shallow.layers == (2, 4, 6)  # type: ignore[attr-defined]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("keep", [4, 0.25])
def test_in_a_model_it_is_its_cuts_one_by_one(padding: Any, keep: int | float) -> None:
    model, inputs = tiny_llava(), tiny_inputs((1, 1), padding=padding)
    with torch.no_grad():
        with tessella.reduce(model, "layered(method=fastv, layers=(1, 2, 3), shape='linear')", keep=keep) as run:
            got = model(**inputs).logits
        assert run.report.last is not None
        assert run.report.last.layers == (32, 24, 16, 8)
        with tessella.reduce(model, "fastv@1:12 | fastv@2:8 | fastv@3:4"):
            want = model(**inputs).logits
    assert torch.equal(got, want)


def test_ratios_in_a_model_and_a_mean_over_layers() -> None:
    model, inputs = tiny_llava(), tiny_inputs()
    with torch.no_grad():
        with tessella.reduce(model, "layered(method=random, layers=(1, 3), ratios=(0.5, 0.25))") as run:
            model(**inputs)
        assert run.report.last is not None
        assert run.report.last.layers == (16, 8, 8, 4)
        with tessella.reduce(model, "layered(method=random, layers=(1, 3))", keep=0.6, scope="layer-mean") as run:
            model(**inputs)
    assert run.report.mean_keep_ratio == pytest.approx(0.6, abs=1 / NUM_VISUAL)


def test_it_runs_on_positions_of_several_axes() -> None:
    tiny = tiny_family("qwen2_5_vl")
    model, inputs = tiny.model(), tiny.inputs()
    with torch.no_grad(), tessella.reduce(model, "layered(method=fastv, layers=(1, 2))", keep=0.25) as run:
        model(**inputs)
        record = run.report.last
    assert record is not None
    assert sum(map(sum, record.tokens_kept)) == -(-sum(map(sum, record.tokens_in)) // 4)


def test_other_settings_keep_the_contract() -> None:
    for text in (
        "layered(method=fastv, shape='cosine')",
        "layered(method=random, layers=(2, 3), ratios=(0.5, 0.25))",
        "layered(method=uniform(mode='stride1d'), layers=(1, 2, 3), shape='quadratic')",
    ):
        method = parse(text).parts[0].method
        check_method(method)
        assert str(parse(text)) == text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"method": make("divprune")},
            "layered takes a method that cuts in front of a layer of its `at_layer`; got div",
        ),
        ({"layers": (8, 4)}, r"layered: layers must ascend, from 1 on; got \(8, 4\)"),
        ({"layers": (0, 4)}, r"from 1 on; got \(0, 4\)"),
        ({"layers": ()}, r"from 1 on; got \(\)"),
        ({"shape": "step"}, "shape must be one of pyramid, cosine, linear, quadratic; got 'step'"),
        ({"ratios": (0.5, 0.25)}, r"one number for each of the 3 layers \(8, 16, 24\); got \(0.5, 0.25\)"),
        ({"ratios": (0.5, 0.6, 0.1)}, r"lie in \(0, 1\] and do not grow with depth; got \(0.5, 0.6, 0.1\)"),
        ({"ratios": (0.5, 0.2, 0.0)}, r"lie in \(0, 1\]"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        make("layered", **{"method": make("fastv"), **settings})


def test_what_it_cannot_do_is_said_before_anything_runs() -> None:
    model = tiny_llava()
    with pytest.raises(UnsupportedError, match="layered: uniform needs whole grids, which its first cut takes apart"):
        tessella.reduce(model, "layered(method=uniform, layers=(1, 2))", keep=4)
    with pytest.raises(UnsupportedError, match=r"layers\[1\]=9 is not a layer of this decoder; it has 4 layers"):
        tessella.reduce(model, "layered(method=fastv, layers=(1, 9))", keep=4)
    with pytest.raises(BudgetError, match="layered needs a keep"):
        tessella.reduce(model, "layered(method=fastv, layers=(1, 2))")
    with pytest.raises(BudgetError, match="layered takes no keep; got 4"):
        tessella.reduce(model, "layered(method=fastv, layers=(1, 2), ratios=(0.5, 0.25))", keep=4)
