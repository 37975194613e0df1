"""holov against its specification: a slow reference of both variants, shares of skewed crops, and models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tessella
from spying import seen_by
from tessella.core.budget import Counts
from tessella.core.errors import MethodError, UnsupportedError
from tessella.core.layout import NEWLINE
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.models.adapter import find_adapter
from tessella.reduction import holov
from tessella.testing import ArrayView
from tessella.testing.families import tiny_family
from tessella.testing.random_view import Item, random_view
from tessella.testing.tiny import tiny_inputs, tiny_llava

VARIANTS = ("paper", "code")


def view_of(there: list[int], seed: int = 0) -> ArrayView:
    """Random pictures of those many tokens; padding holds loud values."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(len(there), max(there), 6, generator=generator)
    rows = torch.randn(len(there), 2, max(there), generator=generator)
    for b, n in enumerate(there):
        rows[b, :, :n] = rows[b, :, :n].softmax(dim=1)
        tokens[b, n:], rows[b, :, n:] = 50.0, 50.0
    return ArrayView(embeddings=tokens, class_attention=rows, num_tokens=there)


def slow(tokens: Tensor, attention: Tensor, k: int, crops: int, variant: str) -> tuple[list[int], list[int]]:
    """The specification in float64, one crop and one token after the other: shares, and tokens in the order taken."""
    n = len(tokens)
    unit = tokens.double() / (tokens.double().norm(dim=1, keepdim=True) + 1e-6)
    a = attention.double() * (1000 if variant == "code" else 1)
    beta = 0.09 if variant == "code" else 1.0
    slices, start = [], 0
    for c in range(crops):
        slices.append(list(range(start, start + n // crops + (c < n % crops))))
        start += len(slices[-1])
    score = [0.0] * n
    for members in slices:
        variance = []
        for i in members:
            row = [0.0 if i == j else float(unit[i] @ unit[j]) for j in members]
            m = max(len(members) - 1, 1)
            variance.append(sum((s - sum(row) / m) ** 2 for s in row) / m)
        gamma = float(a[members].abs().mean()) / (sum(variance) / len(members) + 1e-6)
        for i, v in zip(members, variance, strict=True):
            score[i] = float(a[i]) + beta * gamma * v
    weight = [sum(score[i] for i in members) / len(members) for members in slices]
    weight = [w / sum(weight) for w in weight]
    quota = [int(w * k) for w in weight]
    for c in sorted(range(crops), key=lambda c: (-weight[c], c))[: k - sum(quota)]:
        quota[c] += 1
    quota = [min(q, len(members)) for q, members in zip(quota, slices, strict=True)]
    surplus, room = k - sum(quota), [len(s) - q for s, q in zip(slices, quota, strict=True)]
    whole = sum(w * r for w, r in zip(weight, room, strict=True)) or 1.0
    quota = [q + min(r, int(surplus * w * r / whole)) for q, r, w in zip(quota, room, weight, strict=True)]
    while sum(quota) < k:
        room = [len(s) - q for s, q in zip(slices, quota, strict=True)]
        quota[max((c for c in range(crops) if room[c]), key=lambda c: (weight[c] * room[c], room[c], -c))] += 1
    inside = a.tolist() if variant == "code" else score
    picks = [sorted(s, key=lambda i: (-inside[i], i))[:q] for s, q in zip(slices, quota, strict=True)]
    return quota, [i for taken in picks for i in taken]


@pytest.mark.parametrize("variant", VARIANTS)
@given(data=st.data(), there=st.lists(st.integers(1, 40), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_both_variants_equal_the_slow_reference(data: st.DataObject, there: list[int], seed: int, variant: str) -> None:
    view, keep = view_of(there, seed), [data.draw(st.integers(1, n)) for n in there]
    num_crops = data.draw(st.none() | st.integers(1, min(there)))
    method: Any = make("holov", variant=variant, num_crops=num_crops)
    counts = Counts(tuple(keep), tuple(there))
    picks, scores = method.select(view, counts), method.holistic(view, method.crops(view, counts))
    shares = method.allocate(scores, view, counts).quota
    for b, (n, k) in enumerate(zip(there, keep, strict=True)):
        attention = view.class_attention(22)[b, :, :n].mean(dim=0)
        crops = num_crops or min(n, max(1, int(1024 / 576 * n / k + 1e-9)))
        quota, expected = slow(view.tokens.embeddings[b, :n], attention, k, crops, variant)
        assert shares[b].tolist() == quota + [0] * (shares.shape[1] - crops)
        assert picks[b].tolist() == expected + [-1] * (picks.shape[1] - k)
    assert method.reduce(view, counts).keep.sum(dim=1).tolist() == keep


def test_the_papers_counts_make_the_papers_crops() -> None:
    method: Any = make("holov")
    for k, crops in ((192, 5), (128, 8), (64, 16), (576, 1), (1, 576)):
        assert method.num_crops_of((576,), Counts((k,), (576,))) == [crops]
    crops = holov.crops_of((7, 3), (3, 2), torch.device("cpu"))
    assert crops.tolist() == [[[0, 1, 2], [3, 4, -1], [5, 6, -1]], [[0, 1, -1], [2, -1, -1], [-1, -1, -1]]]


def test_one_crop_of_the_code_is_the_most_attended() -> None:
    view, counts = view_of([50]), Counts((9,), (50,))
    picks = make("holov", variant="code", num_crops=1).select(view, counts)  # type: ignore[attr-defined]
    assert torch.equal(picks, view.class_attention(0).mean(dim=1).topk(9).indices)


@pytest.mark.parametrize("variant", VARIANTS)
def test_constant_features_leave_attention_alone(variant: str) -> None:
    """Similarities to the others are all one, and but for the zeroed one on the diagonal they do not vary."""
    attention = torch.rand(1, 1, 24).softmax(dim=2)
    view = ArrayView(embeddings=torch.ones(1, 24, 4), class_attention=attention)
    method: Any = make("holov", variant=variant, num_crops=2)
    counts = Counts((6,), (24,))
    quota = method.allocate(attention[:, 0], view, counts).quota[0].tolist()
    halves = attention[0, 0].view(2, 12)
    expected = [(h.topk(q).indices + 12 * i).tolist() for i, (h, q) in enumerate(zip(halves, quota, strict=True))]
    assert method.select(view, counts)[0].tolist() == [i for taken in expected for i in taken]
    nothing = ArrayView(embeddings=torch.zeros(1, 24, 4), class_attention=torch.zeros(1, 1, 24))
    assert method.select(nothing, counts)[0].tolist() == [0, 1, 2, 12, 13, 14]  # all equal: evenly, earlier first


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_crop_that_holds_nearly_all_attention_is_full_and_no_more(variant: str) -> None:
    """The authors' code would fill up with zero vectors; the surplus goes to the other crops."""
    attention = torch.full((1, 1, 40), 0.01 / 30)
    attention[0, 0, 10:20] = 0.099
    view = ArrayView(embeddings=torch.randn(1, 40, 4), class_attention=attention)
    method: Any = make("holov", variant=variant, num_crops=4)
    for k in (12, 25, 39):
        counts = Counts((k,), (40,))
        quota = method.allocate(method.score(view), view, counts).quota[0]
        assert quota[1] == 10
        assert quota.sum() == k
        assert int(quota.max()) <= 10
        assert method.reduce(view, counts).keep[0, 10:20].all()


def test_sharpness_favours_the_better_crop() -> None:
    """Shares of 6 and 2, of 7.2 and 0.8, whose left-over goes to the larger, or equal ones."""
    scores = torch.tensor([[3.0, 3.0, 1.0, 1.0]]).repeat_interleave(5, dim=1)
    view = ArrayView(embeddings=torch.zeros(1, 20, 2))
    for sharpness, quota in ((1.0, [6, 2]), (2.0, [8, 0]), (0.0, [4, 4])):
        method: Any = make("holov", num_crops=2, sharpness=sharpness)
        assert method.allocate(scores, view, Counts((8,), (20,))).quota[0].tolist() == quota
    method = make("holov", num_crops=2)
    assert method.allocate(-scores, view, Counts((8,), (20,))).quota[0].tolist() == [4, 4]  # another method's score


def test_beta_weighs_the_variance() -> None:
    view = view_of([30])
    crops = holov.crops_of((30,), (3,), torch.device("cpu"))
    attention = view.class_attention(0).mean(dim=1)
    by_beta = [make("holov", beta=b).holistic(view, crops) for b in (0.0, 0.5, 1.0)]  # type: ignore[attr-defined]
    torch.testing.assert_close(by_beta[0], attention)
    torch.testing.assert_close(by_beta[1] - attention, (by_beta[2] - attention) / 2)
    code: Any = make("holov", variant="code", num_crops=3)
    torch.testing.assert_close(code.score(view), 1000 * make("holov", beta=0.09, num_crops=3).score(view))  # type: ignore[attr-defined]


def test_scores_without_a_count_are_those_of_sixteen_crops() -> None:
    view, method = view_of([64, 9]), make("holov")
    crops = holov.crops_of((64, 9), (16, 9), torch.device("cpu"))
    assert torch.equal(method.score(view), method.holistic(view, crops))  # type: ignore[attr-defined]


def test_similarities_in_blocks_are_those_of_whole_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, crops = torch.randn(2, 30, 5), holov.crops_of((30, 21), (2, 3), torch.device("cpu"))
    whole = holov.similarity_variance(tokens, crops)
    monkeypatch.setattr(holov, "BLOCK_ELEMENTS", 2 * 3 * 15 * 4)  # four rows at a time
    torch.testing.assert_close(holov.similarity_variance(tokens, crops), whole)


def test_settings_that_make_no_sense() -> None:
    for change, message in (
        ({"variant": "both"}, "variant must be one of paper, code; got 'both'"),
        ({"num_crops": 0}, "num_crops must be >= 1; got 0"),
        ({"beta": -1.0}, r"beta must be >= 0; got -1\.0"),
        ({"sharpness": -0.5}, r"sharpness must be >= 0; got -0\.5"),
        ({"cls_fallback": "given"}, "cls_fallback must be None or 'received'; got 'given'"),
    ):
        with pytest.raises(MethodError, match=message):
            make("holov", **change)
    with pytest.raises(MethodError, match="7 tokens make no 8 crops; num_crops here: 1 to 7"):
        make("holov", num_crops=8).reduce(view_of([9, 7]), Counts((3, 3), (9, 7)))


# -- on models -------------------------------------------------------------------------------------------------------


def test_the_row_is_that_of_the_feature_layer() -> None:
    model, inputs = tiny_llava(attention="eager"), tiny_inputs((1,))
    with torch.no_grad():
        with tessella.reduce(model, "holov(num_crops=2)", keep=6) as run:
            model(**inputs)
        out = model.model.vision_tower(inputs["pixel_values"], output_attentions=True, output_hidden_states=True)
        tokens = model.model.multi_modal_projector(out.hidden_states[-2][:, 1:])[0]
    _, expected = slow(tokens, out.attentions[2][0, :, 0, 1:].mean(dim=0), 6, 2, "paper")
    assert run.kept[0][0].tolist() == sorted(expected)


def test_qwen_is_scored_by_attention_received_in_the_last_layer() -> None:
    family = tiny_family("qwen2_5_vl")
    model = family.model()
    with torch.no_grad(), tessella.reduce(model, "holov", keep="1/3") as run:
        model(**family.inputs([[(72, 48)]]))
    assert run.report.tokens_kept == 18
    assert "holov: attention received stands in for the class token" in run.report.notes
    info = find_adapter(model).info
    assert make("holov").captures(info).encoder == (3,)
    item = Item(4, 5)
    view = random_view([item], make("holov").captures(info))
    view.info = info
    assert torch.equal(make("holov").attention(view), view.attention_received(3))  # type: ignore[attr-defined]


def test_other_encoders_without_class_token_are_refused_unless_asked() -> None:
    model = tiny_llava("siglip")
    with pytest.raises(UnsupportedError, match=r"holov needs a class token.*Nearest: hiprune"):
        tessella.reduce(model, "holov", keep=4)
    with torch.no_grad(), tessella.reduce(model, "holov(cls_fallback='received')", keep=4) as run:
        model(**tiny_inputs((1,)))
    assert run.report.tokens_kept == 4


def test_tiles_are_one_sequence_without_newlines() -> None:
    """A thumbnail of 16, and a mosaic of 4 x 10 tokens with a newline behind each line."""
    family = tiny_family("llava_next")
    model, inputs = family.model(), family.inputs([[(90, 40)]])
    layers = Captures(encoder=(2,))
    attention, layout = seen_by(lambda v: (v.class_attention(2)[0].mean(dim=0), v.layout), model, inputs, layers=layers)
    with torch.no_grad(), tessella.reduce(model, "holov(variant='code', num_crops=1)", keep="1/4") as run:
        model(**inputs)
    best = attention.masked_fill(layout.role[0] == NEWLINE, -1.0).topk(14).indices
    grid_by_grid = torch.argsort(layout.tile[0], stable=True)
    assert run.kept[0][0].tolist() == torch.isin(grid_by_grid, best).nonzero()[:, 0].tolist()
    assert run.report.roles["newline"].kept == 0
    assert run.report.roles["newline"].of == 4
