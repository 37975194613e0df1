"""fopru against its specification, with slow references."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tessella
from tessella.core.budget import Budget, Counts, round_count
from tessella.core.errors import LayoutError, MethodError
from tessella.core.layout import Layout
from tessella.core.pipeline import Part, Pipeline
from tessella.core.registry import make
from tessella.core.view import Captures
from tessella.reduction.fopru import variance
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.families import tiny_family

INFO = default_info()
shapes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 7)), min_size=1, max_size=3)


def kept(keep: Tensor) -> list[list[int]]:
    return [row.nonzero()[:, 0].tolist() for row in keep]


def reference_significance(attention: Tensor) -> list[float]:
    """Of `[H, N + 1, N + 1]` weights with a class token in front, in float64."""
    among = attention.double()[:, 1:, 1:].mean(dim=0)
    received, given = among.mean(dim=0), among.mean(dim=1)
    if len(received) == 1:
        return received.tolist()
    return (received if received.var() >= given.var() else given).tolist()


def reference_rows(significance: list[float], grid: tuple[int, int], num_rows: int) -> list[int]:
    rows, columns = grid
    sums = [sum(significance[r * columns : (r + 1) * columns]) for r in range(rows)]
    best = sorted(range(rows), key=lambda r: (-sums[r], r))[:num_rows]
    return [r * columns + c for r in sorted(best) for c in range(columns)]


def view_of(attention: list[Tensor], grids: list[tuple[int, int]]) -> ArrayView:
    """The attention of each picture among its patches, padded with loud values."""
    most = max(r * c for r, c in grids)
    pair = torch.full((2, len(grids), most), 50.0, dtype=torch.float64)
    for b, weights in enumerate(attention):
        among = weights.double()[:, 1:, 1:].mean(dim=0)
        pair[0, b, : len(among)], pair[1, b, : len(among)] = among.mean(dim=0), among.mean(dim=1)
    return ArrayView(embeddings=torch.zeros(len(grids), most, 1), patch_attention=(pair[0], pair[1]), grids=grids)


def weights_of(grid: tuple[int, int], gen: torch.Generator, to_class: float) -> Tensor:
    """Softmaxed weights; a large `to_class` makes what patches give vary more than what they receive."""
    size = grid[0] * grid[1] + 1
    logits = torch.randn(2, size, size, generator=gen)
    logits[:, :, 0] += to_class * torch.randn(size, generator=gen)
    return logits.softmax(dim=2)


@given(grids=shapes, to_class=st.sampled_from([0.0, 3.0]), seed=st.integers(0, 999))
def test_equals_the_reference(grids: list[tuple[int, int]], to_class: float, seed: int) -> None:
    """Both strategies, pictures of several shapes in one batch."""
    gen = torch.Generator().manual_seed(seed)
    there = tuple(r * c for r, c in grids)
    keep = tuple(int(torch.randint(0, n + 1, (1,), generator=gen)) for n in there)
    attention = [weights_of(grid, gen, to_class) for grid in grids]
    view, counts = view_of(attention, grids), Counts(keep, there)
    by_rank, by_row = make("fopru").reduce(view, counts), make("fopru", strategy="row").reduce(view, counts)
    assert by_rank.num_kept == keep
    assert by_row.num_kept is None
    for b, grid in enumerate(grids):
        significance = reference_significance(attention[b])
        order = sorted(range(there[b]), key=lambda i: -significance[i])
        assert kept(by_rank.keep)[b] == sorted(order[: keep[b]])
        num_rows = max(1, keep[b] // grid[1]) if keep[b] else 0
        assert kept(by_row.keep)[b] == reference_rows(significance, grid, num_rows)


def test_axis_by_variance() -> None:
    """Each picture takes the axis that varies more, and a field can name one."""
    received = torch.tensor([[0.1, 0.5, 0.2, 0.2], [0.25, 0.26, 0.25, 0.24]])
    given = torch.tensor([[0.24, 0.25, 0.26, 0.25], [0.1, 0.1, 0.6, 0.1]])
    view = ArrayView(patch_attention={INFO.feature_layer: (received, given)}, embeddings=torch.zeros(2, 4, 1))
    score = {axis: make("fopru", axis=axis).score(view) for axis in ("auto", "received", "given")}  # type: ignore
    assert torch.equal(score["auto"], torch.stack([received[0], given[1]]))
    assert torch.equal(score["received"], received)
    assert torch.equal(score["given"], given)
    ragged = ArrayView(patch_attention=(received, given), embeddings=torch.zeros(2, 4, 1), num_tokens=[4, 2])
    assert torch.equal(make("fopru").score(ragged)[1], received[1])  # type: ignore[attr-defined]


def test_rows_of_a_ratio_are_the_sources() -> None:
    """floor(rows * ratio) whole rows, at least one, for every ratio and side."""
    for side in (4, 7, 16, 24):
        significance = torch.rand(1, side**2)
        view = ArrayView(
            patch_attention=(significance, significance * 0), embeddings=torch.zeros(1, side**2, 1), grids=(side, side)
        )
        for percent in range(1, 101, 9):
            ratio = Fraction(percent, 100)
            card = make("fopru").card
            count = max(round_count(ratio * side**2, card.rounding), card.min_keep)
            keep = make("fopru", strategy="row").reduce(view, Counts((count,), (side**2,))).keep
            want = reference_rows(significance[0].tolist(), (side, side), max(1, int(side * ratio)))
            assert kept(keep) == [want]


def test_padding_is_no_row_and_varies_nothing() -> None:
    """Another method's scores may be below zero, and padding is not: it wins no row and adds no variance."""
    scores = torch.tensor([[-1.0, -2.0, -3.0, -4.0, 50.0, 50.0], [-6.0, -5.0, -4.0, -3.0, -2.0, -1.0]])
    view = ArrayView(embeddings=torch.zeros(2, 6, 1), grids=[(2, 2), (6, 1)])
    picks = make("fopru", strategy="row").choose(scores, view, Counts((2, 2), (4, 6)))  # type: ignore[attr-defined]
    assert picks.tolist() == [[0, 1], [4, 5]]
    torch.testing.assert_close(variance(scores, view.mask), torch.tensor([[5 / 3], [3.5]]))


def test_everything_is_the_identity() -> None:
    significance = torch.rand(1, 24)
    view = ArrayView(patch_attention=(significance,) * 2, embeddings=torch.zeros(1, 24, 1), grids=(4, 6))
    for strategy in ("rank", "row"):
        assert make("fopru", strategy=strategy).reduce(view, Counts((24,), (24,))).keep.all()


def test_no_variance_and_one_token() -> None:
    """Equal significance: earlier tokens and rows."""
    flat = torch.full((1, 24), 1 / 25)
    view = ArrayView(patch_attention=(flat, flat), embeddings=torch.zeros(1, 24, 1), grids=(4, 6))
    assert kept(make("fopru").reduce(view, Counts((3,), (24,))).keep) == [[0, 1, 2]]
    assert kept(make("fopru", strategy="row").reduce(view, Counts((13,), (24,))).keep) == [list(range(12))]
    one = ArrayView(patch_attention=(flat[:, :1],) * 2, embeddings=torch.zeros(1, 1, 1))
    for strategy in ("rank", "row"):
        assert kept(make("fopru", strategy=strategy).reduce(one, Counts((1,), (1,))).keep) == [[0]]


def test_what_it_says_of_itself() -> None:
    rank, row = make("fopru"), make("fopru", strategy="row")
    assert rank.captures(INFO) == row.captures(INFO) == Captures(encoder=(22,))
    assert (rank.card.count, row.card.count, rank.card.rounding) == ("exact", "adaptive", "floor")
    assert rank.needs(INFO) == ("attention_received",)
    assert row.needs(INFO) == ("attention_received", "grid")
    assert make("fopru").card.count == "exact"  # the class keeps its own card
    with pytest.raises(MethodError, match="fopru: strategy must be one of rank, row; got 'column'"):
        make("fopru", strategy="column")
    with pytest.raises(MethodError, match="fopru: axis must be one of auto, received, given; got 'both'"):
        make("fopru", axis="both")


def test_rows_need_the_whole_grid() -> None:
    layout = Layout.single(1, 4, 6).gather(torch.arange(10)[None], (0,))
    view = ArrayView(patch_attention=(torch.rand(1, 10),) * 2, embeddings=torch.zeros(1, 10, 1), layout=layout)
    with pytest.raises(LayoutError, match="a whole grid is needed; item 0 has 10 tokens"):
        make("fopru", strategy="row").reduce(view, Counts((6,), (10,)))
    assert int(make("fopru").reduce(view, Counts((6,), (10,))).keep.sum()) == 6


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("strategy", ["rank", "row"])
def test_on_models(family: str, strategy: str) -> None:
    """The report shows how many tokens stay: the count, or whole rows of the grid."""
    tiny = tiny_family(family)
    model = tiny.model()
    pipeline = Pipeline((Part(make("fopru", strategy=strategy), Budget("1/2")),))
    with torch.no_grad(), tessella.reduce(model, pipeline) as run:
        model(**tiny.inputs())
    record = run.report.last
    assert record is not None
    for there, stay in zip(sum(record.tokens_in, ()), sum(record.tokens_kept, ()), strict=True):
        assert stay == there // 2 if strategy == "rank" else 0 < stay <= there // 2
