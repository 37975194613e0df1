"""text_dominance's compression against its specification."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tessella
from tessella.core.budget import Budget, Counts, round_count
from tessella.core.errors import MethodError, UnsupportedError
from tessella.core.model_info import ModelInfo
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family
from tessella.testing.tiny import IMAGE_TOKEN, NUM_VISUAL, tiny_inputs, tiny_llava

CLIP = dataclasses.replace(default_info(), num_encoder_layers=24, feature_layer=22)
SIGLIP = dataclasses.replace(CLIP, family="siglip", has_class_token=False)


def view_of(rows: Tensor, info: ModelInfo = CLIP, layer: int = 22, **given_arrays: Any) -> ArrayView:
    return ArrayView(class_attention={layer: rows}, info=info, **given_arrays)


def kept(keep: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in keep]


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=3), seed=st.integers(0, 999))
def test_equals_the_reference(sizes: list[int], seed: int) -> None:
    """Ragged items with loud padding, in float64, patch by patch."""
    gen = torch.Generator().manual_seed(seed)
    rows = torch.rand(len(sizes), 3, max(sizes), generator=gen)
    for row, n in zip(rows, sizes, strict=True):
        row[:, n:] = 40.0
    keep = tuple(int(torch.randint(0, n + 1, (1,), generator=gen)) for n in sizes)
    method: Any = make("text_dominance")
    view = view_of(rows, num_tokens=sizes)
    scores, reduction = method.score(view), method.reduce(view, Counts(keep, tuple(sizes)))
    for b, n in enumerate(sizes):
        want = [sum(rows[b, :, j].double().tolist()) / 3 for j in range(n)]
        assert scores[b, :n].tolist() == pytest.approx(want, rel=1e-6)
        assert kept(reduction.keep)[b] == sorted(sorted(range(n), key=lambda j: -want[j])[: keep[b]])


def test_counts_of_the_papers_ratios() -> None:
    """r = 75, 90 and 95% of 576 tokens."""
    card = make("text_dominance").card
    left = [round_count(Fraction(Budget(1 - r).keep) * 576, card.rounding) for r in (0.75, 0.9, 0.95)]
    assert left == [144, 58, 29]
    assert (card.count, card.positions, card.stages) == ("exact", "compact", ("connector",))


def test_bfloat16_is_averaged_in_float32() -> None:
    rows = (torch.rand(1, 16, 50) * 1e-3).bfloat16()
    method: Any = make("text_dominance")
    torch.testing.assert_close(method.score(view_of(rows)), rows.float().mean(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("depth", "layer"), [(24, 22), (27, 25), (2, 0)])
def test_the_layer_is_the_last_but_one_whichever_the_connector_reads(depth: int, layer: int) -> None:
    for feature_layer in (depth - 1, depth - 2):
        info = dataclasses.replace(CLIP, num_encoder_layers=depth, feature_layer=feature_layer)
        assert make("text_dominance").fit(info).captures(info) == Captures(encoder=(layer,))
    assert make("text_dominance", cls_layer=1).captures(CLIP) == Captures(encoder=(1,))


def test_keeps_what_the_class_token_of_the_model_attends_to() -> None:
    """Eager attention of the encoder itself; every layer of the cache holds the shorter sequence."""
    inputs = tiny_inputs((1, 1), padding="left")
    with torch.no_grad():
        tower = tiny_llava(attention="eager").model.vision_tower
        rows = tower(inputs["pixel_values"], output_attentions=True).attentions
    model = tiny_llava()
    for layer, method in ((2, make("text_dominance")), (0, make("text_dominance", cls_layer=0))):
        with torch.no_grad(), tessella.reduce(model, method, keep=5) as run:
            cache = model(**inputs).past_key_values
        for row in range(2):
            scores = rows[layer][row, :, 0, 1:].mean(dim=0)
            assert run.kept[row][0].tolist() == sorted(scores.topk(5).indices.tolist())
        length = inputs["input_ids"].shape[1] - NUM_VISUAL + 5
        assert [part.keys.shape[2] for part in cache.layers] == [length] * 4
    assert int((inputs["input_ids"] == IMAGE_TOKEN).sum()) == 2 * NUM_VISUAL


def test_positions_of_several_axes_are_kept() -> None:
    tiny = tiny_family("qwen2_5_vl")
    model = tiny.model()
    method = make("text_dominance", cls_fallback="received")
    with torch.no_grad(), tessella.reduce(model, method, keep=2) as run:
        model(**tiny.inputs())
    assert run.report.positions == "original"
    assert [len(k) for k in run.kept[0]] == [2]


def test_without_class_token() -> None:
    view = ArrayView(
        attention_received={22: torch.tensor([[0.2, 0.5, 0.3]])}, class_attention=torch.rand(1, 2, 3), info=SIGLIP
    )
    with pytest.raises(UnsupportedError, match=r"^text_dominance needs a class token; .* siglip model has none\. Near"):
        make("text_dominance").reduce(view, Counts((2,), (3,)))
    fallback: Any = make("text_dominance", cls_fallback="received")
    assert kept(fallback.reduce(view, Counts((2,), (3,))).keep) == [[1, 2]]
    assert fallback.needs(SIGLIP) == ("attention_received",)
    assert fallback.needs(CLIP) == make("text_dominance").needs(SIGLIP) == ("class_token",)
    assert fallback.remarks(SIGLIP) == ("attention received stands in for the class token",)
    assert fallback.remarks(CLIP) == make("text_dominance").remarks(SIGLIP) == ()
    with_token = view_of(torch.tensor([[[0.5, 0.2, 0.3]]]), attention_received=torch.zeros(1, 3))
    assert kept(fallback.reduce(with_token, Counts((1,), (3,))).keep) == [[0]]  # a class token is used where there is
    with pytest.raises(UnsupportedError, match=r"text_dominance needs a class token.*[Nn]earest: hiprune"):
        tessella.reduce(tiny_llava("siglip"), "text_dominance", keep=3)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(MethodError, match=r"^text_dominance: cls_fallback must be None or 'received'; got 'first'\.$"):
        make("text_dominance", cls_fallback="first")
    with pytest.raises(UnsupportedError, match=r"text_dominance: cls_layer=24 is not a layer of this encoder"):
        make("text_dominance", cls_layer=24).fit(CLIP)
    shallow = dataclasses.replace(CLIP, num_encoder_layers=1, feature_layer=0)
    with pytest.raises(UnsupportedError, match=r"last encoder layer but one, and this encoder has one layer"):
        make("text_dominance").captures(shallow)
    assert make("text_dominance", cls_layer=0).fit(shallow).captures(shallow) == Captures(encoder=(0,))


def test_equal_scores_one_token_and_everything() -> None:
    method = make("text_dominance")
    assert kept(method.reduce(view_of(torch.full((1, 2, 6), 0.1)), Counts((2,), (6,))).keep) == [[0, 1]]
    assert kept(method.reduce(view_of(torch.rand(1, 2, 1)), Counts((1,), (1,))).keep) == [[0]]
    assert kept(method.reduce(view_of(torch.rand(1, 2, 4)), Counts((4,), (4,))).keep) == [[0, 1, 2, 3]]
