"""fastv, fastervlm and hiprune against their specifications, with slow references."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tessella
from tessella.core.budget import Budget, Counts, round_count
from tessella.core.errors import MethodError, UnsupportedError
from tessella.core.model_info import PaperLayer
from tessella.core.pipeline import as_pipeline
from tessella.core.reduction import Reduction
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.tiny import tiny_llava

INFO = default_info()
WITHOUT_CLASS_TOKEN = dataclasses.replace(INFO, family="siglip", has_class_token=False)


def kept(reduction: Reduction, item: int = 0) -> list[int]:
    return reduction.keep[item].nonzero()[:, 0].tolist()


def counts(keep: int, there: int) -> Counts:
    return Counts((keep,), (there,))


# -- fastv -----------------------------------------------------------------------------------------------------------


def test_fastv_averages_heads_of_the_layer_before() -> None:
    rows = {4: torch.tensor([[[[0.1, 0.3, 0.2]], [[0.1, 0.0, 0.2]]]]), 5: torch.tensor([[[[0.9, 0.0, 0.0]]] * 2])}
    method = make("fastv", at_layer=5)
    view = ArrayView(attention_rows=rows)
    torch.testing.assert_close(method.score(view), torch.tensor([[0.1, 0.15, 0.2]]))  # type: ignore[attr-defined]
    assert kept(method.reduce(view, counts(2, 3))) == [1, 2]
    assert method.captures(INFO) == Captures(decoder=(4,))


def test_fastv_takes_earlier_tokens_at_ties() -> None:
    view = ArrayView(attention_rows=torch.full((1, 2, 1, 5), 0.1))
    assert kept(make("fastv").reduce(view, counts(3, 5))) == [0, 1, 2]
    assert kept(make("fastv").reduce(view, counts(5, 5))) == [0, 1, 2, 3, 4]


def test_fastv_asks_for_the_last_row_over_all_keys() -> None:
    asked = []

    def rows(layer: int, queries: str, softmax: str, keys: str) -> Tensor:
        asked.append((layer, queries, softmax, keys))
        return torch.zeros(1, 1, 1, 4)

    make("fastv").reduce(ArrayView(embeddings=torch.zeros(1, 4, 1), attention_rows=rows), counts(2, 4))
    assert asked == [(1, "last", "all", "visual")]


def test_fastv_layers() -> None:
    assert make("fastv").at_layer == 2  # type: ignore[attr-defined]
    assert isinstance(make("fastv").at_layer, PaperLayer)  # type: ignore[attr-defined]
    steps = make("fastv").fit(INFO).steps(INFO, Budget(5))
    assert [(s.stage, s.at_layer, s.captures.decoder) for s in steps] == [("prefill", 2, (1,))]
    shallow = dataclasses.replace(INFO, num_layers=2)
    assert make("fastv").fit(shallow).at_layer == 1  # type: ignore[attr-defined]
    with pytest.raises(MethodError, match="at_layer must be >= 1; got 0"):
        make("fastv", at_layer=0)
    with pytest.raises(UnsupportedError, match="fastv: at_layer=2 is not a layer of this decoder; it has 2 layers"):
        make("fastv", at_layer=2).fit(shallow)
    assert str(as_pipeline(make("fastv"))) == "fastv"
    assert str(as_pipeline(make("fastv", at_layer=2))) == "fastv@2"


def test_fastv_count_drops_whole_tokens() -> None:
    """k = N - floor(N R): of 7 tokens half are dropped, that is 3."""
    card = make("fastv").card
    assert round_count(Budget(0.5).keep * 7, card.rounding) == 4  # type: ignore[operator]
    assert (card.scope, card.unit, card.positions) == ("prompt", "prompt", "original")


# -- fastervlm -------------------------------------------------------------------------------------------------------


def class_view(attention: Tensor, **given: object) -> ArrayView:
    return ArrayView(class_attention={INFO.feature_layer: attention}, **given)  # type: ignore[arg-type]


def test_fastervlm_is_blind_to_head_order_and_scale() -> None:
    attention, method = torch.rand(2, 4, 30), make("fastervlm")
    both = Counts((9, 9), (30, 30))
    keep = method.reduce(class_view(attention), both).keep
    assert torch.equal(method.reduce(class_view(attention[:, [2, 0, 3, 1]]), both).keep, keep)
    assert torch.equal(method.reduce(class_view(attention * 8), both).keep, keep)
    order = torch.randperm(30)
    assert torch.equal(method.reduce(class_view(attention[:, :, order]), both).keep, keep[:, order])
    mean = attention.double().mean(dim=1)
    for b in range(2):
        assert kept(method.reduce(class_view(attention), both), b) == sorted(mean[b].topk(9).indices.tolist())


def test_fastervlm_without_class_token() -> None:
    view = ArrayView(
        attention_received=torch.tensor([[0.2, 0.5, 0.3]]),
        class_attention=torch.rand(1, 2, 3),
        info=WITHOUT_CLASS_TOKEN,
    )
    with pytest.raises(UnsupportedError, match=r"needs a class token; .* siglip model has none. Nearest: hiprune"):
        make("fastervlm").reduce(view, counts(2, 3))
    assert make("fastervlm").needs(WITHOUT_CLASS_TOKEN) == ("class_token",)
    fallback = make("fastervlm", cls_fallback="received")
    assert fallback.needs(WITHOUT_CLASS_TOKEN) == ("attention_received",)
    assert fallback.needs(INFO) == ("class_token",)
    assert kept(fallback.reduce(view, counts(2, 3))) == [1, 2]
    assert fallback.captures(WITHOUT_CLASS_TOKEN) == Captures(encoder=(22,))
    assert fallback.remarks(WITHOUT_CLASS_TOKEN) == ("attention received stands in for the class token",)
    assert fallback.remarks(INFO) == make("fastervlm").remarks(WITHOUT_CLASS_TOKEN) == ()
    with tessella.reduce(tiny_llava("siglip"), fallback, keep=4) as run:
        assert run.report.notes[-1] == "fastervlm: attention received stands in for the class token"
    with pytest.raises(MethodError, match="cls_fallback must be None or 'received'; got 'first'"):
        make("fastervlm", cls_fallback="first")
    with_token = ArrayView(class_attention=torch.tensor([[[0.5, 0.2, 0.3]]]), attention_received=torch.zeros(1, 3))
    assert kept(fallback.reduce(with_token, counts(1, 3))) == [0]  # a class token is used where there is one


# -- hiprune ---------------------------------------------------------------------------------------------------------


def reference_hiprune(
    middle: list[float], output: list[float], grid: tuple[int, int], keep: int, alpha: float, wrap: bool
) -> tuple[list[int], list[int]]:
    """The specification's pseudocode; anchors that do not fit are dropped from the last one on."""
    (rows, columns), last = grid, grid[0] * grid[1] - 1
    anchors = sorted(range(last + 1), key=lambda i: (-middle[i], i))[: round(keep * alpha / 5)]

    def around(a: int) -> set[int]:
        if wrap:
            return {min(max(i, 0), last) for i in (a, a - 1, a + 1, a - columns, a + columns)}
        row, column = divmod(a, columns)
        near = [(row, column), (row, column - 1), (row, column + 1), (row - 1, column), (row + 1, column)]
        return {r * columns + c for r, c in near if 0 <= r < rows and 0 <= c < columns}

    fitting = len(anchors)
    while len(set().union(*map(around, anchors[:fitting]))) > keep:
        fitting -= 1
    chosen = set().union(*map(around, anchors[:fitting]))
    others = sorted((i for i in range(last + 1) if i not in chosen), key=lambda i: (-output[i], i))
    return sorted(chosen | set(others[: keep - len(chosen)])), anchors


@given(
    grids=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 7)), min_size=1, max_size=3),
    alpha=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    wrap=st.booleans(),
    seed=st.integers(0, 999),
)
def test_hiprune_equals_the_reference(grids: list[tuple[int, int]], alpha: float, wrap: bool, seed: int) -> None:
    gen = torch.Generator().manual_seed(seed)
    there = [r * c for r, c in grids]
    middle, output = (torch.rand(len(grids), max(there), generator=gen) for _ in range(2))
    keep = [int(torch.randint(0, n + 1, (1,), generator=gen)) for n in there]
    view = ArrayView(attention_received={8: middle, 22: output}, grids=grids)
    budget = Counts(tuple(keep), tuple(there))
    method = make("hiprune", alpha=alpha, wrap=wrap)
    reduction = method.reduce(view, budget)
    anchors = method.anchors(view, budget)  # type: ignore[attr-defined]
    for b, grid in enumerate(grids):
        want, want_anchors = reference_hiprune(middle[b].tolist(), output[b].tolist(), grid, keep[b], alpha, wrap)
        assert kept(reduction, b) == want
        assert [i for i in anchors[b].tolist() if i >= 0] == want_anchors


def test_hiprune_alpha_zero_is_the_output_layer() -> None:
    received = {8: torch.rand(1, 48), 22: torch.rand(1, 48)}
    chosen = kept(
        make("hiprune", alpha=0.0).reduce(ArrayView(attention_received=received, grids=(6, 8)), counts(11, 48))
    )
    assert chosen == sorted(received[22][0].topk(11).indices.tolist())


def test_hiprune_anchors_bring_their_neighbours() -> None:
    received = {8: torch.rand(1, 400), 22: torch.rand(1, 400)}
    method, view = make("hiprune", alpha=0.5), ArrayView(attention_received=received, grids=(20, 20))
    anchors = method.anchors(view, counts(60, 400))[0].tolist()  # type: ignore[attr-defined]
    assert len(anchors) == 6
    chosen = set(kept(method.reduce(view, counts(60, 400))))
    for a in anchors:
        assert {i for i in (a, a - 1, a + 1, a - 20, a + 20) if 0 <= i < 400} <= chosen


def test_hiprune_anchors_that_just_fit() -> None:
    """One anchor with four neighbours fills a count of 5; of two anchors a count of 9 drops the second whole."""
    middle = torch.zeros(1, 49)
    middle[0, 24], middle[0, 16] = 2.0, 1.0  # apart from each other: 10 tokens together
    output = torch.rand(1, 49)
    output[0, [0, 48, 6, 42]] += 1
    view = ArrayView(attention_received={8: middle, 22: output}, grids=(7, 7))
    method = make("hiprune", alpha=1.0)
    assert kept(method.reduce(view, counts(5, 49))) == [17, 23, 24, 25, 31]
    middle[0, 16], middle[0, 9] = 0.0, 1.0
    assert kept(method.reduce(view, counts(9, 49))) == [0, 6, 17, 23, 24, 25, 31, 42, 48]
    assert kept(method.reduce(view, counts(10, 49))) == sorted([2, 8, 9, 10, 16, 17, 23, 24, 25, 31])


def test_hiprune_layers() -> None:
    assert make("hiprune").captures(INFO) == Captures(encoder=(8, 22))
    assert make("hiprune", object_layer=15, output_layer=31).captures(INFO) == Captures(encoder=(15, 31))
    assert make("hiprune", object_layer=22).captures(INFO) == Captures(encoder=(22,))
    shallow = dataclasses.replace(INFO, num_encoder_layers=6, feature_layer=4)
    fitted = make("hiprune").fit(shallow)
    assert fitted.captures(shallow) == Captures(encoder=(2, 4))  # 8 of 24 is 2 of 6
    with pytest.raises(UnsupportedError, match="hiprune: output_layer=48 is not a layer of this encoder"):
        make("hiprune", output_layer=48).fit(INFO)
    with pytest.raises(MethodError, match=r"alpha is a share in \[0, 1\]; got 2.0"):
        make("hiprune", alpha=2.0)


@pytest.mark.parametrize(
    ("depth", "packs", "whole", "layer"),
    [
        (24, False, None, 8),  # the paper's CLIP
        (12, False, None, 8),  # it lies inside
        (4, False, None, 1),  # 8 * 4 / 24
        (32, True, (7, 15, 23, 31), 15),  # the paper's Qwen2.5-VL
        (32, True, None, 15),  # without windows
        (4, True, (1, 3), 1),  # 15 * 4 / 32 is 2, as near to both
        (24, True, (5, 11, 17, 23), 17),
    ],
)
def test_hiprune_chooses_the_object_layer(depth: int, packs: bool, whole: tuple[int, ...] | None, layer: int) -> None:
    info = dataclasses.replace(
        INFO, num_encoder_layers=depth, feature_layer=depth - 1, packs_pictures=packs, global_layers=whole
    )
    assert make("hiprune").fit(info).object_layer == layer
    assert make("hiprune", object_layer=2).fit(info).object_layer == 2
