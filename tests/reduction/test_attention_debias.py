"""Attention debiasing: the curve, the mask and the count by hand; around scorers of one cut and of several."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tessella
from tessella.core.budget import Budget, Counts
from tessella.core.errors import BudgetError, MethodError
from tessella.core.layout import Block, Layout
from tessella.core.pipeline import parse
from tessella.core.registry import load_class, make
from tessella.ops.padding import padded_share, square_margins
from tessella.ops.trends import trend
from tessella.testing import ArrayView, check_method
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.tiny import tiny_inputs, tiny_llava

RECORDED = Path(__file__).parents[1] / "golden" / "reduction"
RELEASED = (3.0152e-3, -1.4598e-5, 2.5691e-8)  # the cubic of FastV


def debias(**settings: Any) -> Any:
    return make("attention_debias", **settings)


def seen(scores: Tensor, **options: Any) -> ArrayView:
    """A view in which FastV's scores are those given."""
    return ArrayView(attention_rows=scores[:, None, None], at_layer=2, **options)


def letterbox(width: int, height: int, grid: int = 24) -> Tensor:
    margins = square_margins(width, height, 14 * grid)
    return padded_share(margins, (14 * grid, 14 * grid), (grid, grid)).reshape(1, -1)


def kept(reduction: Any) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in reduction.keep]


# -- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "coefficients"), [("exp", (4.0506e-3,)), ("cubic", RELEASED), ("table", tuple(np.linspace(1, 0.2, 576)))]
)
def test_a_score_that_is_the_trend_becomes_flat(form: str, coefficients: tuple[float, ...]) -> None:
    method = debias(form=form, coefficients=tuple(map(float, coefficients)))
    view = seen(1e-3 / method.curve()[None], grids=(24, 24), padding=letterbox(640, 427))
    valid = method.valid(view)[0]
    corrected = method.score(view)[0]
    assert int(valid.sum()) == 384
    torch.testing.assert_close(corrected[valid], torch.full((384,), 1e-3))
    assert float(corrected[~valid].abs().max()) == 0.0


def test_the_released_curve_of_fastv_is_the_cubic() -> None:
    with np.load(RECORDED / "attention_debias_landscape_cubic.npz") as arrays:
        weight = torch.as_tensor(arrays["weight"]).double()
    curve = debias(form="cubic", coefficients=RELEASED).curve()
    torch.testing.assert_close(curve, weight, rtol=2e-4, atol=0)  # its coefficients are given to five digits


def test_without_a_trend_and_a_mask_it_is_its_scorer() -> None:
    scores = torch.rand(2, 30)
    view = seen(scores, num_tokens=(30, 21))
    counts = Counts((7, 5), (30, 21))
    got = debias(form="none", pad_threshold=None).reduce(view, counts)
    want = make("fastv").reduce(view, counts)
    assert torch.equal(got.keep, want.keep)
    assert got.num_kept == want.num_kept == (7, 5)


def test_each_picture_reads_the_curve_at_its_own_length() -> None:
    method = debias(coefficients=(0.004,), pad_threshold=None)
    blocks = [Block(0, 2, 3, newlines=True), Block(0, 1, 4, tile=1), Block(1, 1, 1)]
    layout = Layout.build([range(13)], [blocks])
    got = method.score(seen(torch.ones(1, 13), layout=layout))[0]
    places = [*(i * 575 / 5 for i in range(3)), None, *(i * 575 / 5 for i in range(3, 6)), None]
    places += [*(i * 575 / 3 for i in range(4)), 0.0]
    want = [1.0 if place is None else math.exp(-0.004 * place) for place in places]
    assert got.tolist() == pytest.approx(want, rel=1e-5)


def test_what_is_left_of_an_earlier_cut_keeps_its_place() -> None:
    method = debias(coefficients=(0.01,), length=9, pad_threshold=None)
    left = Layout.single(1, 3, 3).gather(torch.tensor([[2, 5, 8]]), (0,))
    got = method.score(seen(torch.full((1, 3), 2.0), layout=left))[0]
    assert got.tolist() == pytest.approx([2 * math.exp(-0.01 * i) for i in (2, 5, 8)])


def test_scores_of_half_precision_are_corrected_in_float32() -> None:
    method = debias(coefficients=(1e-5,), pad_threshold=None)
    got = method.correct(torch.ones(1, 576, dtype=torch.bfloat16), seen(torch.ones(1, 576), grids=(24, 24)))
    assert got.dtype == torch.float32
    assert bool((got[0].diff() < 0).all())


# -- padding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height", "valid"), [(640, 427, 384), (300, 500, 336), (500, 500, 576)])
def test_no_more_than_the_valid_tokens_are_kept(width: int, height: int, valid: int) -> None:
    scores = torch.rand(1, 576, generator=torch.Generator().manual_seed(2))
    padding = letterbox(width, height)
    for count in (1, 128, 400, 576):
        method = debias(coefficients=(0.004,), pad_threshold=0.01)
        view = seen(scores, grids=(24, 24), padding=padding)
        reduction = method.reduce(view, Counts((count,), (576,)))
        mask = padding[0] <= 0.01
        corrected = scores[0].double() * (-0.004 * torch.arange(576)).exp() * mask
        order = sorted(range(576), key=lambda i: (not mask[i], -float(corrected[i]), i))
        assert kept(reduction) == [sorted(order[: min(count, valid)])]
        assert reduction.num_kept is None


def test_padding_does_not_stand_in_for_valid_tokens_without_attention() -> None:
    view = seen(torch.tensor([[0.9, 0.0, 0.0, 0.5]]), num_tokens=(4,), padding=torch.tensor([[1.0, 1.0, 0.0, 0.0]]))
    assert kept(debias(form="none").reduce(view, Counts((2,), (4,)))) == [[2, 3]]


def test_a_picture_on_nothing_but_padding_is_not_masked() -> None:
    view = seen(torch.tensor([[0.9, 0.1], [0.2, 0.3]]), num_tokens=(2, 2), padding=torch.ones(2, 2))
    assert kept(debias(form="none").reduce(view, Counts((1, 1), (2, 2)))) == [[0], [1]]


def test_protected_tokens_stay_on_padding() -> None:
    class Guarded(load_class("fastv")):  # type: ignore[misc]
        def protect(self, view: Any) -> Tensor:
            return torch.tensor([[True, False, False, False]])

    view = seen(torch.tensor([[0.1, 0.2, 0.3, 0.4]]), num_tokens=(4,), padding=torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
    assert kept(debias(scorer=Guarded(), form="none").reduce(view, Counts((2,), (4,)))) == [[0, 2]]


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_later_cuts_take_what_padding_has_left(positions: Any) -> None:
    model, inputs = tiny_llava(), tiny_inputs((1, 1), padding="left")
    inputs["pixel_values"][0, :, 7:] = 0  # one row of patches of four is left of the first picture
    text = "attention_debias(scorer=pyramiddrop(layers=(1, 2, 3)), coefficients=(0.003,)):12"
    with torch.no_grad(), tessella.reduce(model, text, positions=positions) as run:
        out = model.generate(**inputs, max_new_tokens=3, do_sample=False, suppress_tokens=[5])
        assert [[len(k) for k in row] for row in run.kept] == [[4], [12]]
        assert run.kept[0][0].tolist() == [0, 1, 2, 3]
        again = model.generate(**inputs, max_new_tokens=3, do_sample=False, suppress_tokens=[5], use_cache=False)
    assert torch.equal(out, again)


def test_one_picture_of_a_prompt_may_go_to_the_other() -> None:
    model, inputs = tiny_llava(), tiny_inputs((2,))
    inputs["pixel_values"][0, :, 7:] = 0
    with torch.no_grad(), tessella.reduce(model, "attention_debias(form='none')", keep=14) as run:
        model(**inputs)
        kept = [k.tolist() for k in run.kept[0]]
    assert set(kept[0]) <= {0, 1, 2, 3}
    assert len(kept[0]) + len(kept[1]) == 20  # all there are but padding: 28 were asked for


# -- cuts ------------------------------------------------------------------------------------------------------------


def test_the_first_cut_is_corrected_or_all_are() -> None:
    scorer = make("pyramiddrop")
    first = debias(scorer=scorer, coefficients=(0.003,)).steps(default_info(), Budget(9))
    assert [s.reduce == scorer.reduce for s in first] == [False, True, True]
    each = debias(scorer=scorer, coefficients=(0.003, 0.0, 0.002), cuts="all").steps(default_info(), Budget(9))
    view = ArrayView(attention_rows=torch.ones(1, 1, 1, 4), grids=(2, 2), at_layer=8)
    ends = [s.reduce.__self__.score(view)[0, -1].item() for s in each]  # type: ignore[attr-defined]
    assert ends == pytest.approx([math.exp(-0.003 * 575), 1.0, math.exp(-0.002 * 575)], rel=1e-5)
    one = debias(scorer=scorer, coefficients=(0.003,), cuts="all").steps(default_info(), Budget(9))
    assert [s.reduce.__self__.coefficients for s in one] == [(0.003,)] * 3  # type: ignore[attr-defined]


def test_counts_are_promised_as_the_mask_allows() -> None:
    def promises(**settings: Any) -> list[str]:
        steps = debias(coefficients=(0.003,), **settings).steps(default_info(), Budget(9))
        return [s.promised_count for s in steps]

    assert promises() == ["at_most"]
    assert promises(pad_threshold=None) == ["exact"]
    assert promises(scorer=make("pyramiddrop")) == ["adaptive", "adaptive", "at_most"]
    assert promises(scorer=make("pyramiddrop"), pad_threshold=None) == ["adaptive", "adaptive", "exact"]


def test_the_card_is_that_of_its_scorer() -> None:
    card, host = debias(scorer=make("pyramiddrop")).card, make("pyramiddrop").card
    names = ("stages", "unit", "scope", "newlines", "rounding", "positions", "prompt_dependent", "takes_keep")
    assert [getattr(card, n) for n in names] == [getattr(host, n) for n in names]
    assert (card.title, card.paper, card.count, card.exact_with_keep) == (
        "Attention debiasing",
        "2508.17807",
        "adaptive",
        False,
    )
    assert debias(pad_threshold=None).card.count == "exact"
    assert debias().needs(default_info()) == ("decoder_rows", "pixels")
    assert debias(pad_threshold=None).needs(default_info()) == ("decoder_rows",)


@pytest.mark.parametrize(
    "scorer", ["sparsevlm", "sparsevlm(merging=False)", "transprune", "adaptinfer", "pyramiddrop", "fastervlm"]
)
def test_it_wraps_other_scorers(scorer: str) -> None:
    text = f"attention_debias(scorer={scorer}, form='cubic', coefficients={RELEASED}, cuts='all')"
    check_method(parse(text).parts[0].method)
    assert str(parse(text)) == text


def test_it_runs_on_merged_patches() -> None:
    tiny = tiny_family("qwen2_5_vl")
    model, inputs = tiny.model(), tiny.inputs()
    with torch.no_grad(), tessella.reduce(model, "attention_debias(coefficients=(0.003,))", keep=0.5) as run:
        model(**inputs)
        record = run.report.last
    assert record is not None
    there = sum(map(sum, record.tokens_in))
    assert sum(map(sum, record.tokens_kept)) == -(-there // 2)  # nothing is padded


# -- what is refused -------------------------------------------------------------------------------------------------


def test_no_curve_is_shipped() -> None:
    with pytest.raises(MethodError, match="no curve of its own: fit one with 'tessella calibrate attention_debias'"):
        tessella.reduce(tiny_llava(), "attention_debias(scorer=fastv)", keep=4)
    with pytest.raises(BudgetError, match="attention_debias needs a keep"):
        tessella.reduce(tiny_llava(), "attention_debias(coefficients=(0.1,))")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"form": "spline"}, "form must be one of exp, cubic, table, none; got 'spline'"),
        ({"cuts": "last"}, "cuts must be one of first, all; got 'last'"),
        ({"length": 0}, "length must be >= 1; got 0"),
        ({"pad_threshold": 1.0}, r"pad_threshold is None or a share in \[0, 1\); got 1.0"),
        ({"coefficients": (-0.1,)}, r"coefficients of form='exp' are finite and at least 0; got \(-0.1,\)"),
        ({"coefficients": (math.nan,)}, "are finite and at least 0"),
        ({"form": "cubic", "coefficients": (0.1, 0.1)}, r"form='cubic' has 3 coefficient\(s\); got 2"),
        ({"form": "cubic", "coefficients": (math.inf, 0.1, 0.1)}, "coefficients of form='cubic' are finite; got"),
        ({"form": "cubic", "coefficients": (-0.1, 0.0, 0.0)}, "stay above 0 over its 576 positions; .* falls to -56.5"),
        ({"form": "table", "coefficients": (1.0, 0.5)}, r"form='table' has 576 coefficient\(s\); got 2"),
        ({"form": "none", "coefficients": (1.0,)}, r"form='none' has 0 coefficient\(s\); got 1"),
        ({"scorer": make("divprune")}, "scorer takes a method that scores tokens; divprune does not"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    cls = load_class("attention_debias")
    if "scorer" in settings:  # past the annotations, which only tests execute
        method = object.__new__(cls)
        method.__dict__.update({f: getattr(debias(), f) for f in cls.__dataclass_fields__}, **settings)  # type: ignore[attr-defined]
        with pytest.raises(MethodError, match=message):
            method.__post_init__()  # type: ignore[attr-defined]
        return
    with pytest.raises(MethodError, match=message):
        debias(**settings)


def test_curves_for_other_cuts_are_refused() -> None:
    method = debias(scorer=make("pyramiddrop"), coefficients=(0.1, 0.2), cuts="all")
    with pytest.raises(MethodError, match=r"2 curves for 3 corrected cut\(s\) of pyramiddrop; give one, or one for"):
        method.steps(default_info(), Budget(9))


def test_a_trend_is_relative_to_the_first_place() -> None:
    assert float(trend("cubic", RELEASED, torch.zeros(1))) == 1.0
