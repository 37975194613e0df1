"""pool against its specification: torch's pooling, mass, slots, parents."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from torch import Tensor

import tessella
from tessella.core.budget import Counts
from tessella.core.errors import LayoutError, MethodError
from tessella.core.layout import Block, Layout
from tessella.core.reduction import Reduction
from tessella.core.registry import make
from tessella.ops.grids import shape_of, spans
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info
from tessella.testing.tiny import tiny_inputs, tiny_llava

GRIDS = ((14, 14), (5, 7), (1, 9), (3, 2), (6, 1))
KEEPS = ((22, 9, 4, 5, 1), (98, 34, 9, 6, 5), (1, 1, 1, 1, 1), (196, 35, 9, 6, 6), (65, 12, 2, 2, 3))


def pool(grids: tuple[tuple[int, int], ...], keeps: tuple[int, ...], tokens: Tensor, **settings: str) -> Reduction:
    there = tuple(r * c for r, c in grids)
    view = ArrayView(features=tokens, embeddings=-tokens, grids=grids)
    return make("pool", **settings).reduce(view, Counts(keeps, there))


def random_tokens(grids: tuple[tuple[int, int], ...], channels: int = 3) -> Tensor:
    return torch.randn(len(grids), max(r * c for r, c in grids), channels)


@pytest.mark.parametrize("keeps", KEEPS)
@pytest.mark.parametrize("space", ["encoder", "projected"])
def test_equals_torch(keeps: tuple[int, ...], space: str) -> None:
    """Bit by bit, in a ragged batch of other grids."""
    tokens = random_tokens(GRIDS)
    reduction = pool(GRIDS, keeps, tokens, space=space)
    assert reduction.embeddings is not None
    assert reduction.space == space
    for b, (grid, keep) in enumerate(zip(GRIDS, keeps, strict=True)):
        shape = shape_of(*grid, keep)
        maps = tokens[b, : grid[0] * grid[1]].T.reshape(1, 3, *grid) * (1 if space == "encoder" else -1)
        want = torch.nn.functional.adaptive_avg_pool2d(maps, shape)[0].flatten(1).T
        assert torch.equal(reduction.embeddings[b, : len(want)], want)
        assert reduction.num_kept is not None
        assert reduction.num_kept[b] == len(want) == int(reduction.keep[b].sum()) <= keep


@pytest.mark.parametrize("keeps", KEEPS)
def test_weights_are_exact_and_conserve_mass(keeps: tuple[int, ...]) -> None:
    """A token of m cells gives 1/m to each; the mean of a cell's members is its token."""
    reduction = pool(GRIDS, keeps, random_tokens(GRIDS))
    assert reduction.weights is not None
    for b, (grid, keep) in enumerate(zip(GRIDS, keeps, strict=True)):
        cells = cells_of(grid, shape_of(*grid, keep))
        num_cells = [sum(t in cell for cell in cells) for t in range(grid[0] * grid[1])]
        want = torch.zeros_like(reduction.weights[b])
        for k, cell in enumerate(cells):
            for token in cell:
                want[k, token] = 1 / num_cells[token]
        torch.testing.assert_close(reduction.weights[b], want)
        assert reduction.weights[b].sum().item() == pytest.approx(grid[0] * grid[1], rel=1e-5)


def cells_of(grid: tuple[int, int], shape: tuple[int, int]) -> list[list[int]]:
    """The specification's cells, by exact fractions."""

    def places(length: int, number: int, i: int) -> range:
        begin, end = Fraction(i * length, number), Fraction((i + 1) * length, number)
        return range(begin.__floor__(), end.__ceil__())

    return [
        [r * grid[1] + c for r in places(grid[0], shape[0], i) for c in places(grid[1], shape[1], j)]
        for i in range(shape[0])
        for j in range(shape[1])
    ]


@pytest.mark.parametrize("keeps", KEEPS)
def test_slots_lie_at_the_centres_and_hold_their_cells(keeps: tuple[int, ...]) -> None:
    reduction = pool(GRIDS, keeps, random_tokens(GRIDS))
    assert reduction.source is not None
    for b, (grid, keep) in enumerate(zip(GRIDS, keeps, strict=True)):
        cells = cells_of(grid, shape_of(*grid, keep))
        slots = []
        for cell in cells:
            centre = [sum(t // grid[1] for t in cell) / len(cell), sum(t % grid[1] for t in cell) / len(cell)]
            slots.append(min(cell, key=lambda t: (abs(t // grid[1] - centre[0]) + abs(t % grid[1] - centre[1]), t)))
        assert reduction.keep[b].nonzero()[:, 0].tolist() == slots == sorted(set(slots))
        first = [next(s for s, cell in zip(slots, cells, strict=True) if t in cell) for t in range(grid[0] * grid[1])]
        want = [t if t in slots else first[t] for t in range(grid[0] * grid[1])]
        assert reduction.source[b].tolist() == want + [-1] * (reduction.source.shape[1] - len(want))


def test_all_tokens_are_the_identity() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        tokens = random_tokens(GRIDS).to(dtype)
        there = tuple(r * c for r, c in GRIDS)
        reduction = pool(GRIDS, there, tokens)
        assert reduction.embeddings is not None
        for b, count in enumerate(there):
            assert torch.equal(reduction.embeddings[b, :count], tokens[b, :count])
            assert reduction.keep[b].nonzero()[:, 0].tolist() == list(range(count))


def test_constant_maps_stay_constant() -> None:
    reduction = pool(((7, 5),), (11,), torch.full((1, 35, 2), 0.75))
    assert reduction.embeddings is not None
    assert reduction.embeddings.unique().tolist() == [0.75]


def test_spans() -> None:
    assert spans(14, 4) == ((0, 4), (3, 7), (7, 11), (10, 14))
    assert spans(6, 6) == tuple((i, i + 1) for i in range(6))


def test_refuses_several_grids_and_other_spaces() -> None:
    layout = Layout.build([range(12)], [[Block(0, 2, 3), Block(1, 2, 3)]])
    view = ArrayView(features=torch.zeros(1, 12, 1), layout=layout)
    with pytest.raises(LayoutError, match=r"a whole grid is needed; item 0 has 12 tokens of 2 grid"):
        make("pool").reduce(view, Counts((4,), (12,)))
    with pytest.raises(MethodError, match="pool: space must be one of encoder, projected; got 'pixels'"):
        make("pool", space="pixels")
    assert make("pool").needs(default_info()) == ("features", "grid")
    assert make("pool", space="projected").needs(default_info()) == ("grid",)


def test_in_a_model() -> None:
    """The pooled features pass the connector; the report counts the cells; a scope over two pictures is refused."""
    model, inputs = tiny_llava(), tiny_inputs((2,))
    with torch.no_grad(), tessella.reduce(model, "pool", keep=5) as run:
        model(**inputs)
        assert [len(k) for k in run.kept[0]] == [4, 4]
        assert (run.report.tokens_in, run.report.tokens_kept) == (32, 8)
        assert run.merged[0][0].tolist() == [0, 0, 2, 2, 0, 0, 2, 2, 8, 8, 10, 10, 8, 8, 10, 10]
    with (
        torch.no_grad(),
        tessella.reduce(model, "pool", keep=5, scope="prompt"),
        pytest.raises(LayoutError, match="a whole grid is needed; item 0 has 32 tokens of 2 grid"),
    ):
        model(**inputs)


def test_projected_space_pools_what_the_language_model_reads() -> None:
    """The connector is not linear, so the two spaces differ; both keep the same slots."""
    model, inputs = tiny_llava(), tiny_inputs((1,))
    logits = []
    for text in ("pool:4", "pool(space='projected'):4"):
        with torch.no_grad(), tessella.reduce(model, text) as run:
            logits.append(model(**inputs).logits)
            assert run.kept[0][0].tolist() == [0, 2, 8, 10]
    assert (logits[0] - logits[1]).abs().max() > 0.01
