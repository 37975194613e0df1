"""VFlowOpt: the map and its recycling against a slow reference, counts of every cut, positions, and what is refused."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tessella
from tessella.core.budget import Counts
from tessella.core.errors import BudgetError, MethodError, UnsupportedError
from tessella.core.layout import NEWLINE, THUMBNAIL, Block, Layout
from tessella.core.registry import make
from tessella.reduction.vflowopt import RELEASED, entropy_shares
from tessella.testing import ArrayView, check_method
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.model_contract import check_on_model
from tessella.testing.tiny import NUM_VISUAL, tiny_inputs, tiny_llava


def method(**settings: Any) -> Any:
    return make("vflowopt", **settings)


def unasked(*counts: int) -> Counts:
    return Counts(counts, counts, asked=False)


# -- references, in float64 and one token at a time --------------------------------------------------------------------


def slow_importance(attention: np.ndarray, t: float, summed: bool = False) -> np.ndarray:
    """The map of one picture from `[H, N, N]`, without entropy."""
    mean = attention.astype(np.float64).mean(axis=0)
    received = mean.mean(axis=0)
    chosen = [j for j in range(len(mean)) if received[j] > t * received.mean()] or range(len(mean))
    total = sum(mean[k] for k in chosen)
    return total if summed else total / len(chosen)


def slow_recycling(
    features: np.ndarray, importance: np.ndarray, names: list[tuple[int, int, int]], ratio: float, a: float
) -> tuple[list[int], list[int], np.ndarray]:
    """Kept tokens, those of them that stand for a cell, and their features; `names` are grid, row and column."""
    features, importance = features.astype(np.float64), importance.astype(np.float64)
    num_low = round(len(features) * (1 - ratio)) + int(len(features) / a**2)
    low = sorted(range(len(features)), key=lambda i: (importance[i], -i))[:num_low]
    cells: dict[tuple[int, int, int], list[int]] = {}
    for i in sorted(low):
        grid, row, column = names[i]
        cells.setdefault((grid, math.floor(row / a), math.floor(column / a)), []).append(i)
    out = {i: features[i] for i in range(len(features)) if i not in low}
    heads = []
    for members in cells.values():
        head = max(members, key=lambda i: (importance[i], -i))
        weight = sum(importance[i] for i in members)
        out[head] = sum(importance[i] * features[i] for i in members) / weight
        heads.append(head)
    kept = sorted(out)
    return kept, sorted(heads), np.stack([out[i] for i in kept])


def mosaic(side: int, rows: int, columns: int) -> tuple[list[Block], list[tuple[int, int, int]]]:
    """A thumbnail and two tiles beside each other with newlines; and the grid, row and column of each token."""
    half = columns // 2
    tiles = [
        Block(0, rows, half, tile=1, top=0, left=0, mosaic=(1, 2)),
        Block(0, rows, columns - half, tile=2, top=0, left=half, newlines=True, mosaic=(1, 2)),
    ]
    names = [(0, r, c) for r in range(side) for c in range(side)]
    names += [(1, r, c) for r in range(rows) for c in range(columns + 1)]
    return [Block(0, side, side, role=THUMBNAIL), *tiles], names


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# -- the map -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.5, 1.0, 1.3, 4.0, 100.0])
@pytest.mark.parametrize("rows", ["mean", "sum"])
def test_the_map_is_attention_of_the_patches_above_the_threshold(t: float, rows: str) -> None:
    """Of none above it, all of them: 100 times the mean."""
    attention = (drawn(2, 3, 30, 30, seed=1) * 4 + 5 * drawn(2, 1, 1, 30, seed=2) ** 4).softmax(dim=3)
    attention[1, :, 18:] = attention[1, :, :, 18:] = 9.0  # padding
    attention[1, :, :18, :18] /= attention[1, :, :18, :18].sum(dim=2, keepdim=True)
    layout = Layout.build([range(30), range(18)], [[Block(0, 5, 6)], [Block(0, 3, 6)]])
    view = ArrayView(encoder_attention=attention, layout=layout)
    got = method(threshold=t, rows=rows).importance(view)
    for b, count in enumerate((30, 18)):
        want = slow_importance(attention[b, :, :count, :count].numpy(), t, rows == "sum")
        np.testing.assert_allclose(got[b, :count], want, rtol=1e-5)


def test_without_threshold_and_entropy_it_is_the_mean_of_attention() -> None:
    attention = drawn(1, 4, 9, 9, seed=3).softmax(dim=3)
    got = method(threshold=0.0).importance(ArrayView(encoder_attention=attention, grids=(3, 3)))
    torch.testing.assert_close(got, attention.mean(dim=(1, 2)))


def test_patches_above_the_threshold_fit_in_their_columns() -> None:
    """Nearly as many as can be: 9 of 100 patches receive a little more than 10 times their picture's mean."""
    received = torch.full((2, 100), 1e-4)
    received[:, ::12] = 1.0
    received[1] /= 1000
    assert method(threshold=10.0).reference_patches(received).tolist() == [[*range(0, 100, 12), -1]] * 2
    assert method(threshold=0.0).reference_patches(received).shape == (2, 100)


def test_entropy_is_added_as_shares_and_newlines_are_1() -> None:
    colours = (drawn(1, 3, 8, 12, seed=4) * 255).round()
    colours[:, :, 4:, 4:8] = 7.0
    attention = drawn(1, 2, 6, 6, seed=5).softmax(dim=3)
    plain = ArrayView(encoder_attention=attention, colours=colours, grids=(2, 3))
    shares = entropy_shares(colours, 2, 3)
    assert shares.sum().item() == pytest.approx(1)
    assert shares[0].argmin() == 4  # the patch of one colour
    base = method().importance(plain)
    for alpha in (0.7, -0.2):
        torch.testing.assert_close(method(alpha=alpha).importance(plain), base + alpha * shares)
    lined = Layout.build([range(6)], [[Block(0, 2, 2, newlines=True)]])
    got = method().importance(ArrayView(encoder_attention=attention, layout=lined))
    assert got[0, [2, 5]].tolist() == [1.0, 1.0]
    torch.testing.assert_close(got[0, [0, 1, 3, 4]], base[0, [0, 1, 3, 4]])


# -- recycling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "a"), [(0.25, 3.0), (0.1, 5.5), (0.7, 2.0), (0.4, 30.0), (1.0, 4.2), (0.3, 1.0)])
def test_recycling_is_that_of_the_reference(ratio: float, a: float) -> None:
    """A thumbnail with a mosaic, whose newlines have importance 1, and a single grid, in one batch."""
    blocks, names = mosaic(side=7, rows=9, columns=12)
    grids = [(names, blocks), ([(0, r, c) for r in range(6) for c in range(11)], [Block(0, 6, 11)])]
    counts = [len(n) for n, _ in grids]
    layout = Layout.build([range(n) for n in counts], [b for _, b in grids])
    features, scores = drawn(2, max(counts), 5, seed=6), drawn(2, max(counts), seed=7) / 100
    scores = scores.masked_fill(layout.role == NEWLINE, 1.0)
    features[1, counts[1] :] = scores[1, counts[1] :] = 40.0  # padding
    view = ArrayView(embeddings=features, layout=layout)
    reduction = method(ratios=(ratio, 1.0, 1.0), side=a).decide(scores, view, unasked(*counts))
    for b, (count, (each, _)) in enumerate(zip(counts, grids, strict=True)):
        kept, heads, want = slow_recycling(features[b, :count].numpy(), scores[b, :count].numpy(), each, ratio, a)
        assert reduction.keep[b].nonzero()[:, 0].tolist() == kept
        assert reduction.num_kept[b] == len(kept)
        np.testing.assert_allclose(reduction.embeddings[b, : len(kept)], want, rtol=1e-4, atol=1e-5)
        source = reduction.source[b, :count].tolist()
        assert set(source) == set(kept)
        assert all(source[i] == i for i in kept)
        assert {names for i, names in enumerate(source) if i not in kept} <= set(heads)


def test_nothing_low_leaves_every_token_as_it_was() -> None:
    features = drawn(1, 36, 4, seed=8)
    view = ArrayView(embeddings=features, grids=(6, 6))
    reduction = method(ratios=(1.0, 1.0, 1.0), side=6.5).decide(drawn(1, 36, seed=9), view, unasked(36))
    assert reduction.keep.all()
    assert torch.equal(reduction.embeddings, features)


def test_newlines_stay_when_few_are_kept() -> None:
    """Even where summed attention is above 1."""
    layout = Layout.build([range(20)], [[Block(0, 4, 4, newlines=True)]])
    view = ArrayView(embeddings=drawn(1, 20, 3, seed=10), layout=layout)
    scores = (3 + drawn(1, 20, seed=11)).masked_fill(layout.role == NEWLINE, 1.0)
    reduction = method(ratios=(0.25, 1.0, 1.0), side=8.0).decide(scores, view, unasked(20))
    assert reduction.keep[layout.role == NEWLINE].all()
    assert reduction.num_kept == (6,)  # and the highest of the others, and one for the rest


# -- counts ------------------------------------------------------------------------------------------------------------


def test_counts_of_each_cut_are_of_what_it_finds() -> None:
    """The authors' last ratio does not count for every stage."""
    it = method(ratios=(0.3, 0.5, 0.1))
    assert [it.left_after(n, unasked(c)) for n, c in enumerate((729, 219, 110))] == [(219,), (109,), (11,)]
    assert it.left_after(0, unasked(1)) == (1,)


@pytest.mark.parametrize("keep", [0.5, 0.25, 0.1])
def test_released_settings_keep_what_they_say(keep: float) -> None:
    first, second, third = RELEASED[keep]["ratios"]  # type: ignore[misc]
    mean = first * (9 + second * (9 + third * 10)) / 28
    assert mean == pytest.approx(keep, abs=1e-3)
    assert method(**RELEASED[keep]).shares == RELEASED[keep]["ratios"]
    if keep == 0.25:
        assert method() == method(**{**RELEASED[keep], "ratios": None})
        assert method().shares == RELEASED[keep]["ratios"]


@pytest.mark.parametrize("last", [1, 2, 57, 160, 700, 729])
def test_a_keep_scales_the_counts_of_a_quarter(last: int) -> None:
    it, counts = method(), Counts((last,), (729,))
    left = [it.left_after(n, counts)[0] for n in range(3)]
    shares = np.cumprod(RELEASED[0.25]["ratios"])
    assert left == [min(729, round(last * s / shares[-1])) for s in shares]
    assert left[-1] == last


@pytest.mark.parametrize("side", [1.0, 2.0, 4.0, 30.0])
@pytest.mark.parametrize("last", [1, 5, 35, 36])
def test_the_first_cut_leaves_what_the_last_one_is_to_leave(side: float, last: int) -> None:
    """Also where cells would swallow all tokens: with scores that fall with the distance to one corner."""
    view = ArrayView(embeddings=drawn(1, 36, 4, seed=12), grids=(6, 6))
    scores = torch.arange(36, 0, -1.0)[None]
    reduction = method(side=side).decide(scores, view, Counts((last,), (36,)))
    assert reduction.num_kept[0] >= last
    if last == 36:
        assert torch.equal(reduction.embeddings, view.tokens.embeddings)


def test_a_mean_over_layers_is_met() -> None:
    model, inputs = tiny_llava(num_layers=28), tiny_inputs((1,))
    with torch.no_grad(), tessella.reduce(model, "vflowopt(side=3.0)", keep=0.5) as run:
        model(**inputs)
    assert len(set(run.report.layers)) == 3
    assert run.report.mean_keep_ratio == pytest.approx(0.5, abs=0.06)
    with torch.no_grad(), tessella.reduce(model, "vflowopt", keep=5, scope="image") as run:
        model(**inputs)
    assert run.report.layers[-1] == 5


# -- in a model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"alpha": 0.5, "threshold": 1.5, "side": 2.0}, {"rows": "sum", "side": 1.5}])
def test_settings_keep_the_contract(settings: dict[str, Any]) -> None:
    check_method(method(**settings))
    check_on_model(method(**settings))


def test_keeping_everything_is_the_untouched_model() -> None:
    model, inputs = tiny_llava(), tiny_inputs((1, 1), padding="left")
    with torch.no_grad():
        want = model(**inputs).logits
        with tessella.reduce(model, method(ratios=(1.0, 1.0, 1.0), side=4.5)) as run:
            assert torch.equal(model(**inputs).logits, want)
    assert run.num_cuts == 3


@pytest.mark.parametrize("family", ["llava", "llava_next", "llava_onevision", "internvl", "qwen2_5_vl"])
def test_every_cut_goes_by_the_map_of_the_connector(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The map is worked out once; each later cut keeps its highest values, of merged tokens their own."""
    tiny = tiny_family(family)
    model, inputs = tiny.model(), tiny.inputs()
    seen: list[tuple[Tensor, Tensor, Tensor, Any]] = []
    maps: list[Tensor] = []
    kind = type(method())
    importance, decide = kind.importance, kind.decide
    monkeypatch.setattr(kind, "importance", lambda self, view: maps.append(importance(self, view)) or maps[-1])

    def spied(self: Any, scores: Tensor, view: Any, counts: Counts) -> Any:
        reduction = decide(self, scores, view, counts)
        seen.append((scores, reduction.keep, view.mask, view.layout))
        return reduction

    monkeypatch.setattr(kind, "decide", spied)
    settings = {"alpha": 0.3, "threshold": 1.2, "side": 2.0, "ratios": (0.6, 0.7, 0.5)}
    with torch.no_grad(), tessella.reduce(model, method(**settings)):
        model(**inputs)
    assert len(maps) == 1
    assert len(seen) == 3
    for before, after in itertools.pairwise(seen):
        for b in range(len(before[0])):
            assert after[0][b][after[2][b]].tolist() == before[0][b][before[1][b]].tolist()
    for scores, keep, mask, layout in seen[1:]:
        for b, there in enumerate(layout.num_tokens):
            ratio = (0.7, 0.5)[scores is seen[2][0]]
            assert int(keep[b].sum()) == there - round(there * (1 - ratio))
            dropped = mask[b] & ~keep[b]
            assert scores[b][keep[b]].min() >= scores[b][dropped].max()


def test_positions_are_closed_up_once_and_then_kept() -> None:
    """In front of the model they count the tokens that are left; inside it every token keeps its own."""
    model, inputs = tiny_llava(), tiny_inputs((1,))
    layers = model.model.language_model.layers
    seen: dict[int, Tensor] = {}

    def hook(layer: int) -> Any:
        def before(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
            seen[layer] = kwargs["position_embeddings"][0][0]

        return layers[layer].register_forward_pre_hook(before, with_kwargs=True)

    with torch.no_grad(), tessella.reduce(model, method(ratios=(0.6, 0.6, 0.5), side=2.0)) as run:
        handles = [hook(n) for n in range(4)]
        model(**inputs)
        for handle in handles:
            handle.remove()
        report = run.report
        cached = model.generate(**inputs, max_new_tokens=8, do_sample=False, suppress_tokens=[5])
        again = model.generate(**inputs, max_new_tokens=8, do_sample=False, suppress_tokens=[5], use_cache=False)
    assert report.positions == "compact/original"
    assert torch.equal(cached, again)
    length = inputs["input_ids"].shape[1] - NUM_VISUAL + report.layers[0]
    rotary = model.model.language_model.rotary_emb
    everywhere = rotary(torch.zeros(1, length, 32), torch.arange(length)[None])[0][0]
    torch.testing.assert_close(seen[0], everywhere)
    for layer, kept in ((1, report.layers[1]), (3, report.layers[3])):
        number = torch.cdist(seen[layer], everywhere).argmin(dim=1)
        assert len(number) == length - report.layers[0] + kept
        torch.testing.assert_close(seen[layer], everywhere[number])
        assert number.diff().min() >= 1
        assert int(number[-1]) == length - 1  # not closed up again


def test_pictures_of_a_prompt_have_their_own_maps() -> None:
    """Each keeps as it does alone, where the authors' code shares one map."""
    model, two = tiny_llava(), tiny_inputs((2,), seed=3)
    it = method(ratios=(0.5, 1.0, 1.0), side=2.0)
    with torch.no_grad(), tessella.reduce(model, it) as run:
        model(**two)
        (both,) = [[k.tolist() for k in row] for row in run.kept]
        alone = []
        for picture in range(2):
            one = tiny_inputs((1,), seed=3)
            model(**{**one, "pixel_values": two["pixel_values"][picture : picture + 1]})
            alone.append(run.kept[0][0].tolist())
    assert both == alone
    assert both[0] != both[1]


def test_layers_and_what_is_read() -> None:
    info = default_info()
    assert tuple(map(int, method().layers)) == (9, 18)
    assert method().captures(info).encoder == (info.feature_layer,)
    assert method().needs(info) == ("attention_received",)
    assert method(alpha=-0.1).needs(info) == ("attention_received", "pixels")
    steps = method().steps(info, None)
    assert [(s.stage, s.at_layer, s.positions) for s in steps] == [
        ("connector", 0, None),
        ("prefill", 9, "original"),
        ("prefill", 18, "original"),
    ]


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratios": (0.5, 0.5)}, r"one for the connector and one for each of 2 layers; got \(0.5, 0.5\)"),
        ({"ratios": (0.5, 0.0, 1.0)}, r"shares in \(0, 1\]"),
        ({"ratios": (1.5, 1.0, 1.0)}, r"shares in \(0, 1\]"),
        ({"layers": (18, 9)}, r"layers must ascend, from 1 on; got \(18, 9\)"),
        ({"layers": (0, 9)}, "layers must ascend, from 1 on"),
        ({"layers": (5,)}, r"one for each of 1 layers; got \(0.2651, 0.98334, 0.87733\)"),
        ({"side": 0.5}, "side must be >= 1 and finite; got 0.5"),
        ({"threshold": -1.0}, "threshold must be >= 0 and finite; got -1.0"),
        ({"threshold": math.nan}, "threshold must be >= 0"),
        ({"alpha": math.inf}, "alpha must be a finite number; got inf"),
        ({"rows": "max"}, "rows must be 'mean' or 'sum'; got 'max'"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(MethodError, match=message):
        method(**settings)


def test_what_a_model_cannot_do_is_refused() -> None:
    model = tiny_llava()
    with pytest.raises(BudgetError, match=r"fix what is kept; leave out the keep of 0\.5"):
        tessella.reduce(model, "vflowopt(ratios=(0.5, 1.0, 1.0))", keep=0.5)
    with pytest.raises(UnsupportedError, match=r"layers\[1\]=9 is not a layer of this decoder"):
        tessella.reduce(model, "vflowopt(layers=(1, 9))")
    with pytest.raises(UnsupportedError, match="encoder_layer=30 is not a layer of this encoder"):
        tessella.reduce(model, "vflowopt(encoder_layer=30)")
    with pytest.raises(UnsupportedError, match=r"cuts in front of layers \(0, 9, 18\), not of layer 4"):
        method().decide(torch.zeros(1, 1), ArrayView(embeddings=torch.zeros(1, 1, 2), at_layer=4), unasked(1))
