"""Cells of grids against places counted by hand, tokens merged in them against sums; entropy against histograms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tessella.core.layout import THUMBNAIL, Block, Layout
from tessella.ops.attention import attention_from_chosen
from tessella.ops.cells import cells_of, highest_in_cells, merge_in_cells
from tessella.ops.pixels import patch_entropy


def names_of(cell: torch.Tensor, places: list[tuple[int, ...]]) -> bool:
    """Whether two tokens share a cell exactly where they share a name."""
    return all((cell[i] == cell[j]) == (places[i] == places[j]) for i in range(len(places)) for j in range(len(places)))


@pytest.mark.parametrize("side", [1.0, 1.4, 2.0, 2.5, 9.0])
def test_tiles_that_are_laid_together_are_one_grid(side: float) -> None:
    """A thumbnail of 3 x 3, and a mosaic of 3 x (2 + 2) of two tiles a row; newlines come last."""
    tiles = [
        Block(0, 2, 2, tile=1, top=0, left=0, mosaic=(2, 2)),
        Block(0, 2, 2, tile=2, top=0, left=2, newlines=True, mosaic=(2, 2)),
        Block(0, 1, 2, tile=3, top=2, left=0, mosaic=(2, 2)),
        Block(0, 1, 2, tile=4, top=2, left=2, newlines=True, mosaic=(2, 2)),
    ]
    blocks = [Block(0, 3, 3, role=THUMBNAIL), *tiles]
    layout = Layout.build([range(24), range(4)], [blocks, [Block(0, 2, 2)]])
    places = [(0, math.floor(r / side), math.floor(c / side)) for r in range(3) for c in range(3)]
    places += [(1, math.floor(r / side), math.floor(c / side)) for r in range(3) for c in range(5)]
    cell, most = cells_of(layout, side)
    assert names_of(cell[0], places)
    assert most == len(set(places))
    assert cell[0].unique().tolist() == list(range(most))
    assert cell[1, 4:].eq(-1).all()
    assert names_of(cell[1, :4], [(math.floor(i // 2 / side), math.floor(i % 2 / side)) for i in range(4)])


def test_frames_and_pictures_have_cells_of_their_own() -> None:
    blocks = [Block(0, 2, 2, frame=f) for f in range(2)] + [Block(1, 2, 2)]
    cell, most = cells_of(Layout.build([range(12)], [blocks]), 5.0)
    assert most == 3
    assert names_of(cell[0], [(i // 4,) for i in range(12)])


def test_the_highest_of_each_cell_is_the_earlier_among_equals() -> None:
    scores = torch.tensor([[0.5, 0.9, 0.9, 7.0, -1.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    cell = torch.tensor([[0, 1, 1, -1, 3], [2, 2, 0, 0, -1]])
    assert highest_in_cells(scores, cell, 4).tolist() == [[0, 1, -1, 4], [2, -1, 0, -1]]


def test_tokens_are_merged_by_weights_of_any_sign() -> None:
    tokens = torch.tensor([[[1.0, 0.0], [3.0, 2.0], [9.0, 1.0], [5.0, 5.0], [7.0, 1.0]]])
    weight = torch.tensor([[2.0, -1.0, 4.0, 0.25, -0.25]])
    merged = merge_in_cells(tokens, weight, torch.tensor([[0, 0, -1, 2, 2]]), 3)
    assert merged.tolist() == [[[-1.0, -2.0], [0.0, 0.0], [6.0, 3.0]]]  # the last cell's weights sum to zero


def test_entropy_is_that_of_a_histogram_of_rounded_greys() -> None:
    colours = torch.rand(2, 3, 13, 18, generator=torch.Generator().manual_seed(0)) * 12
    colours[1] += 0.4
    got = patch_entropy(colours, 3, 4)  # patches of 4 x 4; a row and two columns are left over
    for b in range(2):
        for r in range(3):
            for c in range(4):
                patch = np.rint(colours[b, :, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4].numpy())
                counts = np.bincount(np.rint(patch.mean(axis=0)).astype(int).ravel(), minlength=256) / 16
                want = -sum(p * math.log2(p) for p in counts if p)
                assert got[b, r, c].item() == pytest.approx(want, abs=1e-5)
    extremes = torch.tensor([-3.0, 300.0, 300.0, 300.0]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert patch_entropy(extremes, 1, 1).item() == pytest.approx(-0.25 * math.log2(0.25) - 0.75 * math.log2(0.75))


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("total", [False, True])
def test_attention_of_chosen_tokens(first: int, total: bool) -> None:
    query, key = torch.randn(2, 3, 4, 7, 5, generator=torch.Generator().manual_seed(1))
    weights = (query @ key.transpose(2, 3) * 0.3).softmax(dim=3).mean(dim=1)[:, first:, first:]
    seen = []

    def choose(received: torch.Tensor) -> torch.Tensor:
        seen.append(received)
        return torch.tensor([[1, 4, -1], [0, 2, 3], [-1, -1, -1]])

    got = attention_from_chosen(query, key, 0.3, first, choose, total)
    torch.testing.assert_close(seen[0], weights.mean(dim=1))
    rows = [weights[0, [1, 4]], weights[1, [0, 2, 3]], weights[2]]
    torch.testing.assert_close(got, torch.stack([r.sum(dim=0) if total else r.mean(dim=0) for r in rows]))
