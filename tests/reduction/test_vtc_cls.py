"""vtc_cls against its specification."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tessella
from tessella.core.budget import Counts
from tessella.core.errors import MethodError, UnsupportedError
from tessella.core.model_info import ModelInfo
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family

CLIP = dataclasses.replace(default_info(), num_encoder_layers=24, feature_layer=22)


def info_of(depth: int) -> ModelInfo:
    return dataclasses.replace(CLIP, num_encoder_layers=depth, feature_layer=max(0, depth - 2))


def view_of(attention: Tensor, info: ModelInfo = CLIP, **given: object) -> ArrayView:
    """Rows of the class token `[L, B, H, V]` as a view."""
    return ArrayView(class_attention=dict(enumerate(attention)), info=info, **given)  # type: ignore[arg-type]


def kept(keep: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in keep]


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    start=st.integers(0, 4),
    ensemble=st.sampled_from(["sum", "min", "max"]),
    seed=st.integers(0, 999),
)
def test_equals_the_reference(sizes: list[int], start: int, ensemble: str, seed: int) -> None:
    """Of six layers those from `start` to the last but one; in float64, patch by patch."""
    gen = torch.Generator().manual_seed(seed)
    attention = torch.rand(6, len(sizes), 3, max(sizes), generator=gen)
    keep = tuple(int(torch.randint(0, n + 1, (1,), generator=gen)) for n in sizes)
    method = make("vtc_cls", start=start, ensemble=ensemble).fit(info_of(6))
    view = view_of(attention, info_of(6), num_tokens=sizes)
    scores, reduction = method.score(view), method.reduce(view, Counts(keep, tuple(sizes)))  # type: ignore[attr-defined]
    join = {"sum": sum, "min": min, "max": max}[ensemble]
    for b, n in enumerate(sizes):
        means = [[sum(attention[layer, b, :, j].double().tolist()) / 3 for layer in range(start, 5)] for j in range(n)]
        want = [join(m) for m in means]
        assert scores[b, :n].tolist() == pytest.approx(want, rel=1e-5)
        assert kept(reduction.keep)[b] == sorted(sorted(range(n), key=lambda j: -want[j])[: keep[b]])


def test_one_layer_is_fastervlm() -> None:
    """With start = L - 2, the layer whose output the connector reads."""
    view, counts = view_of(torch.rand(24, 2, 4, 50)), Counts((9, 20), (50, 50))
    mine = make("vtc_cls", start=22).fit(CLIP).reduce(view, counts).keep
    assert torch.equal(mine, make("fastervlm").reduce(view, counts).keep)
    assert not torch.equal(mine, make("vtc_cls").fit(CLIP).reduce(view, counts).keep)


def test_blind_to_head_order_and_scale_but_not_to_the_scale_of_a_layer() -> None:
    attention, method, counts = torch.rand(24, 1, 4, 40), make("vtc_cls").fit(CLIP), Counts((9,), (40,))
    keep = method.reduce(view_of(attention), counts).keep
    assert torch.equal(method.reduce(view_of(attention[:, :, [2, 0, 3, 1]]), counts).keep, keep)
    assert torch.equal(method.reduce(view_of(attention * 8), counts).keep, keep)
    attention[17] *= 1000
    want = sorted(attention[17, 0].double().mean(dim=0).topk(9).indices.tolist())
    assert kept(method.reduce(view_of(attention), counts).keep) == [want]


def test_last_layer_is_never_read() -> None:
    attention = torch.rand(24, 1, 2, 30)
    louder = attention.clone()
    louder[23], louder[15] = 100 * torch.rand(1, 2, 30), 100 * torch.rand(1, 2, 30)
    method = make("vtc_cls").fit(CLIP)
    assert torch.equal(method.score(view_of(attention)), method.score(view_of(louder)))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("depth", "layers"),
    [
        (24, range(16, 23)),  # the authors' 16 to 22
        (48, range(32, 47)),  # two thirds
        (27, range(18, 26)),
        (12, range(8, 11)),
        (6, range(4, 5)),
        (3, range(1, 2)),  # two thirds are 2, which is the last layer
        (2, range(0, 1)),
    ],
)
def test_default_layers(depth: int, layers: range) -> None:
    fitted = make("vtc_cls").fit(info_of(depth))
    assert fitted.captures(info_of(depth)) == Captures(encoder=tuple(layers))
    assert fitted.fit(info_of(depth)) == fitted


def test_layers_that_are_not_there() -> None:
    with pytest.raises(UnsupportedError, match=r"start=23 leaves no layer; of this encoder's 24 .* left out: 0 to 22"):
        make("vtc_cls", start=23).fit(CLIP)
    with pytest.raises(UnsupportedError, match="vtc_cls: start=-9 leaves no layer"):
        make("vtc_cls", start=-9).fit(CLIP)
    with pytest.raises(
        UnsupportedError, match="vtc_cls leaves the last encoder layer out, and this encoder has no oth"
    ):
        make("vtc_cls").fit(info_of(1))
    with pytest.raises(MethodError, match="vtc_cls: ensemble must be one of sum, min, max; got 'mean'"):
        make("vtc_cls", ensemble="mean")


def test_equal_scores_and_one_token() -> None:
    method = make("vtc_cls").fit(CLIP)
    assert kept(method.reduce(view_of(torch.full((24, 1, 2, 6), 0.1)), Counts((2,), (6,))).keep) == [[0, 1]]
    assert kept(method.reduce(view_of(torch.rand(24, 1, 2, 1)), Counts((1,), (1,))).keep) == [[0]]


def test_on_models() -> None:
    tiny = tiny_family("llava")
    model = tiny.model()
    with torch.no_grad(), tessella.reduce(model, "vtc_cls", keep=3) as run:
        model(**tiny.inputs())
    assert run.report.last is not None
    assert set(sum(run.report.last.tokens_kept, ())) == {3}
    with pytest.raises(UnsupportedError, match=r"vtc_cls needs a class token.*[Nn]earest: hiprune"):
        tessella.reduce(tiny_family("qwen2_5_vl").model(), "vtc_cls", keep=3)
    without = dataclasses.replace(CLIP, family="siglip", has_class_token=False)
    with pytest.raises(UnsupportedError, match=r"encoder of this siglip model has none. Nearest: hiprune"):
        make("vtc_cls").fit(without).reduce(view_of(torch.rand(24, 1, 2, 6), without), Counts((2,), (6,)))
