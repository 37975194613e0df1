"""adaptinfer against its specification: a slow reference, what text weighs, schedules, and a model cut by hand."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_by_layer import Front, LayerByLayer, Left, best
from torch import Tensor

import tessella
from tessella.core.budget import Budget, Counts
from tessella.core.errors import BudgetError, MethodError, UnsupportedError
from tessella.core.layout import Layout
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.reduction.adaptinfer import text_importance
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.random_view import Item, random_view
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava

INFO = default_info()


def slow_scores(attention: Tensor, text: list[int], visual: list[int], smoothing: float = 1.0) -> list[float]:
    """Steps 1 to 4 of the specification in float64, one head and one pair after the other."""
    attention = attention.double()
    pairs: dict[tuple[int, int, int], float] = {}
    for h in range(len(attention)):
        for t in text:
            for u in text:
                both = float(attention[h, t, u]) + float(attention[h, u, t])
                pairs[h, t, u] = both - (float(attention[h, t, t]) if t == u else 0.0)
    mean = sum(pairs.values()) / len(pairs)
    scores = [0.0] * len(visual)
    for h in range(len(attention)):
        for u in text:
            weight = sum(smoothing * pairs[h, t, u] + (1 - smoothing) * mean for t in text)
            scores = [s + weight * float(attention[h, u, v]) for s, v in zip(scores, visual, strict=True)]
    return scores


def ragged_view(there: list[int], before: int, behind: list[int], seed: int, at_layer: int) -> ArrayView:
    """Rotated queries and keys of prompts of several sizes; padding holds loud values."""
    generator = torch.Generator().manual_seed(seed)
    lengths = [before + n + t for n, t in zip(there, behind, strict=True)]
    query, key = (torch.randn(len(there), heads, max(lengths), 8, generator=generator) for heads in (4, 2))
    for row, length in enumerate(lengths):
        query[row, :, length:], key[row, :, length:] = 40.0, 40.0
    layouts = [Layout.single(1, 1, n, before) for n in there]
    layout = Layout.build([x.slot[0] for x in layouts], [x.blocks[0] for x in layouts])
    embeddings = torch.randn(len(there), max(there), 6, generator=generator)
    return ArrayView(projection=(query, key), lengths=lengths, embeddings=embeddings, layout=layout, at_layer=at_layer)


def attention_of(view: ArrayView, row: int, length: int) -> Tensor:
    """Causal attention `[H, S, S]` of an item's rotated queries and keys, in float64."""
    query, key = (t[row, :, :length].double() for t in view.project(0, rotate=True))
    logits = query @ key.repeat_interleave(2, dim=0).transpose(1, 2) / key.shape[2] ** 0.5
    return logits.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -torch.inf).softmax(dim=2)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 5)), min_size=1, max_size=3),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.4, 1.0]),
    st.integers(0, 999),
)
def test_scores_equal_the_reference_on_ragged_batches(
    sizes: list[tuple[int, int]], before: int, smoothing: float, seed: int
) -> None:
    there, behind = ([s[i] for s in sizes] for i in (0, 1))
    view = ragged_view(there, before, behind, seed, at_layer=11)
    method: Any = make("adaptinfer", smoothing=smoothing)
    scores = method.score(view)
    for b, (n, t) in enumerate(sizes):
        length, visual = before + n + t, list(range(before, before + n))
        attention = attention_of(view, b, length)
        text = list(range(before + n, length))
        want = slow_scores(attention, text, visual, smoothing) if text else attention[:, -1, visual].sum(dim=0).tolist()
        torch.testing.assert_close(scores[b, :n].double(), torch.tensor(want).double(), rtol=1e-4, atol=1e-6)


def test_without_smoothing_weights_are_sums_of_columns_and_of_rows() -> None:
    """Early text is seen by more rows, and is favoured: that is the method's, and stays."""
    attention = torch.ones(1, 1, 6, 6).tril() / torch.arange(1, 7)[:, None]  # each looks at all before it alike
    weights = text_importance(attention, torch.ones(1, 6, dtype=torch.bool))[0, 0]
    columns = [sum(1 / (t + 1) for t in range(u, 6)) for u in range(6)]
    want = [c + 1 - 1 / (u + 1) for u, c in enumerate(columns)]  # rows sum to 1; the diagonal is counted once
    torch.testing.assert_close(weights, torch.tensor(want))


def test_smoothing_to_nothing_ranks_by_plain_sums() -> None:
    view = random_view([Item(5, 6, seed=2)], Captures(decoder=(10,)), at_layer=11)
    scores = make("adaptinfer", smoothing=0.0).score(view)[0]  # type: ignore[attr-defined]
    rows = view.attention_rows(10, "text")[0]
    behind = rows[:, 3:].sum(dim=(0, 1))  # three tokens of text in front of the picture
    assert torch.equal(scores.argsort(), behind.argsort())
    torch.testing.assert_close(scores / scores.sum(), behind / behind.sum())


def test_heads_are_weighed_one_by_one() -> None:
    """Two heads of opposite taste: averaged first, all tokens would tie."""
    rows = torch.tensor([[[0.2, 0.4]], [[0.4, 0.2]]])[None]  # [B, H, T, V]
    among = torch.tensor([[[0.4]], [[0.1]]])[None]
    view = ArrayView(
        attention_rows=lambda layer, queries, softmax, keys: among if keys == "text" else rows,
        embeddings=torch.zeros(1, 2, 1),
        lengths=(3,),
        at_layer=2,
    )
    scores = make("adaptinfer").score(view)  # type: ignore[attr-defined]
    torch.testing.assert_close(scores, torch.tensor([[0.4 * 0.2 + 0.1 * 0.4, 0.4 * 0.4 + 0.1 * 0.2]]))


def test_text_stays_the_same_when_the_last_picture_is_gone() -> None:
    """Text between pictures is none of it, though no visual token stands behind it any more."""
    layout = Layout.build([[1, 2, 5, 6]], [[*Layout.single(1, 1, 4).blocks[0]]])
    view = ArrayView(embeddings=torch.zeros(1, 4, 1), layout=layout, lengths=(9,), at_layer=2)
    method: Any = make("adaptinfer")
    assert view.places("text")[0, :5].tolist() == [0, 3, 4, 7, 8]
    assert method.text_behind(view)[0, :5].tolist() == [False, False, False, True, True]
    left = layout.gather(torch.tensor([[0, 1]]), (0,))
    left = dataclasses.replace(left, slot=torch.tensor([[1, 2]]))
    later = ArrayView(embeddings=torch.zeros(1, 2, 1), layout=left, lengths=(7,), at_layer=11)
    later.state = {"text_before": view.state["text_before"][:, :2]}
    assert later.places("text")[0, :5].tolist() == [0, 3, 4, 5, 6]
    assert method.text_behind(later)[0, :5].tolist() == [False, False, False, True, True]


# -- schedules -------------------------------------------------------------------------------------------------------


def kept_after(method: Any, first: int, keep: int | None = None) -> list[int]:
    out, left = [], first
    for number in range(len(method.layers)):
        counts = Counts((first if keep is None else keep,), (left,), asked=keep is not None, num_first=(first,))
        left = method.left_after(number, counts)[0]
        out.append(left)
    return out


@pytest.mark.parametrize("listed", [(290, 72, 18), (133, 27, 3), (80, 24, 2), (40, 12, 0), (300, 94, 30)])
def test_published_lists(listed: tuple[int, ...]) -> None:
    assert kept_after(make("adaptinfer", ratios=tuple(n / 576 for n in listed)), 576) == list(listed)


def test_a_keep_scales_the_list() -> None:
    method = make("adaptinfer")
    assert kept_after(method, 576) == kept_after(method, 576, keep=18) == [290, 72, 18]
    assert kept_after(method, 576, keep=9) == [145, 36, 9]
    assert kept_after(method, 576, keep=200) == [576, 576, 200]
    assert kept_after(method, 100, keep=1) == [16, 4, 1]
    assert kept_after(method, 16) == [8, 2, 1]


def test_a_list_drops_one_token_at_least_but_never_the_last() -> None:
    method = make("adaptinfer", ratios=(1.0, 1.0, 0.001))
    assert kept_after(method, 10) == [9, 8, 1]
    assert kept_after(method, 2) == [1, 1, 1]
    assert kept_after(make("adaptinfer", ratios=(1.0, 1.0, 0.0)), 2) == [1, 1, 0]


def test_tokens_really_processed() -> None:
    """146 on average, where the paper counts 129 by the outputs of its layers."""
    method: Any = make("adaptinfer")
    seen = [576, *kept_after(method, 576)]
    ends = [*(int(n) for n in method.layers), 32]
    layers = [ends[0], *(b - a for a, b in itertools.pairwise(ends))]
    assert layers == [2, 9, 10, 11]
    assert round(sum(n * s for n, s in zip(layers, seen, strict=True)) / 32) == 146


def test_settings_that_make_no_sense() -> None:
    for change, message in (
        ({"layers": (9, 8)}, r"adaptinfer: layers must ascend, from 1 on; got \(9, 8\)"),
        ({"layers": (0, 8)}, "from 1 on"),
        ({"ratios": (0.5, 0.2)}, "one number for each of the 3 layers"),
        ({"ratios": (0.2, 0.5, 0.1)}, "do not grow with depth"),
        ({"at_layer": 2}, "no setting 'at_layer'; allowed: layers, ratios, smoothing[.]"),
        ({"smoothing": 1.5}, r"smoothing lies in \[0, 1\]; got 1.5"),
        ({"smoothing": float("nan")}, r"smoothing lies in \[0, 1\]; got nan"),
    ):
        with pytest.raises(MethodError, match=message):
            make("adaptinfer", **change)
    with pytest.raises(BudgetError, match="fix what is kept; leave out the keep of 8"):
        make("adaptinfer", ratios=(0.5, 0.2, 0.1)).steps(INFO, Budget(8))
    with pytest.raises(BudgetError, match="give ratios"):
        make("adaptinfer", layers=(4,)).steps(INFO, None)
    with pytest.raises(UnsupportedError, match=r"layers\[2\]=9 is not a layer of this decoder; it has 8"):
        make("adaptinfer", layers=(2, 3, 9)).fit(dataclasses.replace(INFO, num_layers=8))


# -- on a model ------------------------------------------------------------------------------------------------------


def cut_by_hand(counts: list[int]) -> Any:
    def cut(number: int, front: Front) -> Left:
        if front.text:
            scores = slow_scores(front.attention, front.text, front.visual)
        else:
            scores = front.attention[:, -1, front.visual].sum(dim=0).tolist()
        places = [front.visual[i] for i in sorted(best(scores, counts[number]))]
        return Left(places, front.hidden[places])

    return cut


@pytest.mark.parametrize("positions", ["compact", "original"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_and_eight_tokens_equal_a_model_cut_by_hand(positions: Any, side: Any) -> None:
    """Rows of one and of two pictures, so that they keep different numbers of tokens."""
    model, inputs = tiny_llava(num_layers=6), tiny_inputs((1, 2, 1), padding=side, seed=3)
    pictures = inputs["pixel_values"].split([1, 2, 1])
    with torch.no_grad():
        with tessella.reduce(model, "adaptinfer", keep="1/5", positions=positions) as run:
            logits = run.expand(model(**inputs).logits)
            tokens = model.generate(**inputs, max_new_tokens=8, suppress_tokens=[IMAGE_TOKEN])[:, -8:]
            kept = [sum(len(picture) for picture in row) for row in run.kept]
        assert kept == [3, 6, 3]
        method: Any = make("adaptinfer").fit(dataclasses.replace(INFO, num_layers=6))
        assert method.layers == (1, 2, 4)
        for row, pixels in enumerate(pictures):
            real = inputs["attention_mask"][row].nonzero()[:, 0]
            ids = inputs["input_ids"][row, real].tolist()
            counts = kept_after(method, ids.count(IMAGE_TOKEN), kept[row])
            reference = LayerByLayer(model, ids, pixels, method.layers, cut_by_hand(counts), positions)
            slots, want = reference.logits()
            text = [i for i, slot in enumerate(slots) if ids[slot] != IMAGE_TOKEN]
            ours = logits[row, [int(real[0]) + slots[i] for i in text]].double()
            torch.testing.assert_close(ours, want[text], rtol=1e-4, atol=1e-4)
            if side == "left":
                assert tokens[row].tolist() == reference.greedy(8)


def test_without_text_behind_the_picture_the_last_token_asks() -> None:
    model, inputs = tiny_llava(num_layers=6), tiny_inputs((1,), text_length=0, seed=2)
    ids = inputs["input_ids"][0].tolist()
    assert ids[-1] == IMAGE_TOKEN
    with torch.no_grad():
        with tessella.reduce(model, "adaptinfer", keep=4) as run:
            ours = run.expand(model(**inputs).logits)[0, :3].double()
            kept = run.kept[0][0].tolist()
        method: Any = make("adaptinfer").fit(dataclasses.replace(INFO, num_layers=6))
        cut = cut_by_hand(kept_after(method, 16, 4))
        slots, want = LayerByLayer(model, ids, inputs["pixel_values"], method.layers, cut, "compact").logits()
    torch.testing.assert_close(ours, want[:3], rtol=1e-4, atol=1e-4)
    assert kept == [slot - 3 for slot in slots[3:]]


def test_all_tokens_go_where_the_list_says_so() -> None:
    model, inputs = tiny_llava(num_layers=6), tiny_inputs((1, 2), padding="left", seed=3)
    method = make("adaptinfer", layers=(1, 2, 4), ratios=(0.5, 0.2, 0.0))
    with torch.no_grad(), tessella.reduce(model, method) as run:
        logits = model(**inputs).logits
        assert run.report.last.layers == (48, 24, 9, 9, 0, 0)  # type: ignore[union-attr]
        assert torch.isfinite(logits).all()
    lists = {"layers": (1, 2, 4), "ratios": (0.5, 0.0, 0.0)}
    with torch.no_grad(), tessella.reduce(model, make("adaptinfer", **lists)) as run:
        model(**inputs)
        assert run.report.last.layers == (48, 24, 0, 0, 0, 0)  # type: ignore[union-attr]


@pytest.mark.parametrize("attending", ["sdpa", "eager"])
def test_a_qwen_keeps_its_positions(attending: str) -> None:
    family = tiny_family("qwen2_5_vl")
    model, inputs = family.model(attention=attending), family.inputs([[(32, 32)]])
    with torch.no_grad(), tessella.reduce(model, make("adaptinfer", layers=(1,), ratios=(0.5,))) as run:
        logits = model(**inputs).logits
        assert run.report.last.layers[:2] == (16, 8)  # type: ignore[union-attr]
        assert torch.isfinite(logits).all()


def test_the_embedded_model_runs_on_the_papers_layers_scaled() -> None:
    model, _ = tessella.load("mini")
    with tessella.reduce(model, "adaptinfer", keep=16) as run:
        assert "layers=(1, 3, 5)" in run.report.notes[0]
