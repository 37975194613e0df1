"""none, blind, random and uniform: the acceptance checks of their specifications."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from tessella.core.budget import Budget, Counts
from tessella.core.errors import BudgetError, LayoutError, MethodError, UnsupportedError
from tessella.core.layout import Block, Layout
from tessella.core.pipeline import as_pipeline, parse
from tessella.core.reduction import Reduction
from tessella.core.registry import make
from tessella.ops.grids import shape_of, stride
from tessella.reduction.uniform import borderless, lattice
from tessella.testing import ArrayView
from tessella.testing.array_view import default_info

VIEW = ArrayView(embeddings=torch.zeros(2, 6, 4), num_tokens=(6, 4))
EVERYTHING = Counts((6, 4), (6, 4), asked=False)


def kept(reduction: Reduction, item: int = 0) -> list[int]:
    return reduction.keep[item].nonzero()[:, 0].tolist()


# -- none and blind --------------------------------------------------------------------------------------------------


def test_none_keeps_every_real_token() -> None:
    reduction = make("none").reduce(VIEW, EVERYTHING)
    assert torch.equal(reduction.keep, VIEW.mask)
    assert reduction.num_kept == (6, 4)
    assert reduction.embeddings is None


def test_blind_keeps_nothing() -> None:
    reduction = make("blind").reduce(VIEW, EVERYTHING)
    assert not reduction.keep.any()
    assert reduction.num_kept == (0, 0)


@pytest.mark.parametrize("method_id", ["none", "blind"])
def test_no_keep_is_taken(method_id: str) -> None:
    with pytest.raises(BudgetError, match=f"{method_id} takes no keep; got 5"):
        as_pipeline(method_id).with_budget(5)
    with pytest.raises(BudgetError, match=f"{method_id} takes no keep; got 0.5"):
        parse(f"{method_id}:0.5").with_budget()
    assert as_pipeline(method_id).with_budget().parts[0].budget is None


# -- random ----------------------------------------------------------------------------------------------------------


def random_sets(sample_ids: list[int], keep: int, num_tokens: int = 64, **settings: object) -> list[list[int]]:
    view = ArrayView(embeddings=torch.zeros(len(sample_ids), num_tokens, 1), sample_ids=sample_ids)
    counts = Counts((keep,) * len(sample_ids), (num_tokens,) * len(sample_ids))
    reduction = make("random", **settings).reduce(view, counts)
    return [kept(reduction, b) for b in range(len(sample_ids))]


@pytest.mark.parametrize("stratified", [False, True])
def test_random_frequencies(stratified: bool) -> None:
    """Over 2000 draws each index is as frequent as any other, to within five sigma."""
    sets = random_sets(list(range(2000)), 16, stratified=stratified)
    assert all(len(set(s)) == 16 for s in sets)
    counted = np.bincount(np.concatenate(sets), minlength=64)
    sigma = math.sqrt(2000 * 0.25 * 0.75)
    assert np.abs(counted - 500).max() < 5 * sigma


def test_random_follows_sample_and_seed_only() -> None:
    both = random_sets([7, 8], 16)
    assert random_sets([8, 7], 16) == both[::-1]
    assert random_sets([8], 16) == both[1:]
    assert both[0] != both[1]
    assert random_sets([7], 16, seed=1) != both[:1]
    assert random_sets([7], 16, seed=0) == both[:1]


def test_random_keeps_all_and_leaves_generators_alone() -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    assert random_sets([3], 64) == [list(range(64))]
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # type: ignore[index]


@pytest.mark.parametrize("keep", [1, 7, 63, 64])
def test_stratified_takes_one_of_each_stretch(keep: int) -> None:
    for chosen in random_sets(list(range(30)), keep, stratified=True):
        edges = [i * 64 // keep for i in range(keep + 1)]
        assert all(low <= i < high for i, low, high in zip(chosen, edges[:-1], edges[1:], strict=True))


def test_random_settings() -> None:
    with pytest.raises(MethodError, match="seed must be >= 0; got -1"):
        make("random", seed=-1)
    steps = make("random", at_layer=4).steps(default_info(), Budget(5))
    assert [(s.stage, s.at_layer) for s in steps] == [("prefill", 4)]
    assert [(s.stage, s.at_layer) for s in make("random").steps(default_info(), Budget(5))] == [("connector", 0)]
    with pytest.raises(UnsupportedError, match=r"random: at_layer=96 is not a layer of this decoder; .* 0 to 95"):
        make("random", at_layer=96).fit(default_info())


# -- uniform ---------------------------------------------------------------------------------------------------------


def whole(rows: int, columns: int) -> tuple[int, int, int, int]:
    return (0, 0, rows, columns)


def uniform(rows: int, columns: int, keep: int, **settings: object) -> list[int]:
    view = ArrayView(embeddings=torch.zeros(1, rows * columns, 1), grids=(rows, columns))
    return kept(make("uniform", **settings).reduce(view, Counts((keep,), (rows * columns,))))


def reference_shape(rows: int, columns: int, keep: int) -> tuple[int, int]:
    """The rule of the specification, word by word."""
    candidates = [(r, min(columns, keep // r)) for r in range(1, min(rows, keep) + 1)]

    def skew(r: int, c: int) -> Fraction:
        ratio = Fraction(r * columns, c * rows)
        return max(ratio, 1 / ratio)

    square = [(r, c) for r, c in candidates if 5 * max(r * columns, c * rows) <= 7 * min(r * columns, c * rows)]
    if square:
        return min(square, key=lambda s: (-s[0] * s[1], skew(*s), -s[0]))
    return min(candidates, key=lambda s: (skew(*s), -s[0] * s[1], -s[0]))


def reference_lattice(rows: int, columns: int, keep: int) -> list[int]:
    """Lattice and farthest fill with plain loops over tokens."""
    r, c = reference_shape(rows, columns, keep)
    chosen = {int((i + 0.5) * rows / r) * columns + int((j + 0.5) * columns / c) for i in range(r) for j in range(c)}

    def distance(token: int) -> int:
        row, column = divmod(token, columns)
        return min(max(abs(row - k // columns), abs(column - k % columns)) for k in chosen)

    while len(chosen) < keep:
        others = [t for t in range(rows * columns) if t not in chosen]
        chosen.add(max(others, key=lambda t: (distance(t), -t)))
    return sorted(chosen)


@pytest.mark.parametrize(
    "grid, keep, shape",
    [((14, 14), 22, (5, 4)), ((14, 14), 65, (8, 8)), ((14, 14), 98, (10, 9)), ((24, 24), 128, (11, 11))],
)
def test_lattice_shapes_of_the_specification(grid: tuple[int, int], keep: int, shape: tuple[int, int]) -> None:
    assert shape_of(*grid, keep) == shape


def test_lattices_of_the_specification() -> None:
    every_third, odd = list(range(1, 24, 3)), list(range(1, 24, 2))
    assert uniform(24, 24, 64) == [r * 24 + c for r in every_third for c in every_third]
    assert uniform(24, 24, 144) == [r * 24 + c for r in odd for c in odd]


@pytest.mark.parametrize("grid", [(1, 1), (1, 9), (7, 1), (3, 5), (5, 4), (6, 6), (2, 11)])
def test_lattice_equals_the_reference_for_every_keep(grid: tuple[int, int]) -> None:
    for keep in range(1, grid[0] * grid[1] + 1):
        assert list(lattice(*grid, keep, whole(*grid))) == reference_lattice(*grid, keep)


@pytest.mark.parametrize("mode", ["grid2d", "stride1d"])
def test_uniform_is_exact_on_every_grid(mode: str) -> None:
    for rows in range(1, 33, 3):
        for columns in range(1, 33, 4):
            for keep in {1, 2, 3, rows, columns, rows * columns // 3, rows * columns - 1, rows * columns} - {0}:
                if keep <= rows * columns:
                    chosen = uniform(rows, columns, keep, mode=mode)
                    assert len(chosen) == keep
                    assert chosen == sorted(set(chosen))
                    assert chosen[-1] < rows * columns
    assert uniform(5, 7, 35, mode=mode) == list(range(35))


def covering_radius(rows: int, columns: int, chosen: list[int]) -> int:
    return max(
        min(max(abs(t // columns - k // columns), abs(t % columns - k % columns)) for k in chosen)
        for t in range(rows * columns)
    )


@pytest.mark.parametrize("keep", [4, 9, 16, 25, 36, 64, 144])
def test_lattice_covers_no_worse_than_a_stride(keep: int) -> None:
    flat, line = uniform(24, 24, keep), uniform(24, 24, keep, mode="stride1d")
    assert covering_radius(24, 24, flat) <= covering_radius(24, 24, line)


def test_stride_is_the_formula() -> None:
    for num_tokens, keep in [(10, 3), (576, 64), (7, 7), (9, 1)]:
        want = [math.floor(Fraction(2 * i + 1, 2) * num_tokens / keep) for i in range(keep)]
        assert list(stride(num_tokens, keep)) == want


def test_borderless_leaves_plain_borders_out() -> None:
    picture = torch.zeros(1, 3, 24, 24)
    picture[:, :, 4:20] = torch.randn(1, 3, 16, 24)  # four plain lines above and below: one row of cells each
    assert borderless(picture, [(6, 6)]) == [(1, 0, 4, 6)]
    view = ArrayView(embeddings=torch.zeros(1, 36, 1), pixels=picture, grids=(6, 6))
    method = make("uniform", mode="border_less")
    chosen = kept(method.reduce(view, Counts((6,), (36,))))
    assert chosen == [6 + i for i in lattice(4, 6, 6, whole(4, 6))]
    assert not {i // 6 for i in kept(method.reduce(view, Counts((24,), (36,))))} & {0, 5}
    rest = kept(method.reduce(view, Counts((25,), (36,))))
    assert len(rest) == 25
    assert set(rest) >= set(range(6, 30))
    assert borderless(torch.zeros(1, 3, 24, 24), [(6, 6)]) == [(0, 0, 6, 6)]  # all plain: nothing is padding
    assert borderless(picture.transpose(2, 3), [(6, 6)]) == [(0, 1, 6, 4)]


def test_uniform_needs() -> None:
    info = default_info()
    assert make("uniform").needs(info) == ("grid",)
    assert make("uniform", mode="stride1d").needs(info) == ()
    assert make("uniform", mode="border_less").needs(info) == ("grid", "pixels")
    with pytest.raises(MethodError, match="mode must be one of grid2d, stride1d, border_less; got 'hexagonal'"):
        make("uniform", mode="hexagonal")


def test_uniform_refuses_a_broken_grid() -> None:
    layout = Layout.build([range(12)], [[Block(0, 2, 3), Block(1, 2, 3)]])
    view = ArrayView(embeddings=torch.zeros(1, 12, 1), layout=layout)
    with pytest.raises(LayoutError, match="a whole grid is needed; item 0 has 12 tokens of 2 grid"):
        make("uniform").reduce(view, Counts((4,), (12,)))
    assert kept(make("uniform", mode="stride1d").reduce(view, Counts((4,), (12,)))) == [1, 4, 7, 10]
