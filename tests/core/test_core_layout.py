"""Visual tokens and their places: laid on placeholders, split into units, gathered."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tessella.core.errors import LayoutError
from tessella.core.layout import NEWLINE, PATCH, THUMBNAIL, Block, Layout

# prompt 0: a thumbnail and a tile with newlines of picture 0, then picture 1; prompt 1: a video of two frames
BLOCKS = [
    [Block(0, 1, 2, role=THUMBNAIL), Block(0, 2, 2, tile=1, newlines=True), Block(1, 1, 3)],
    [Block(0, 1, 2, frame=0), Block(0, 1, 2, frame=1)],
]
SLOTS = [[1, 2, 4, 5, 6, 7, 8, 9, 20, 21, 22], torch.tensor([3, 4, 9, 10])]
LAYOUT = Layout.build(SLOTS, BLOCKS)


def test_build() -> None:
    assert LAYOUT.num_tokens == (11, 4)
    assert LAYOUT.slot.tolist() == [SLOTS[0], [3, 4, 9, 10, *[-1] * 7]]
    assert LAYOUT.mask.sum(dim=1).tolist() == [11, 4]
    assert LAYOUT.image[0].tolist() == [0] * 8 + [1] * 3
    assert LAYOUT.tile[0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0]
    assert LAYOUT.row[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0]
    assert LAYOUT.column[0].tolist() == [0, 1, 0, 1, 2, 0, 1, 2, 0, 1, 2]
    assert LAYOUT.role[0].tolist() == [THUMBNAIL] * 2 + [PATCH, PATCH, NEWLINE] * 2 + [PATCH] * 3
    assert LAYOUT.frame[1].tolist() == [0, 0, 1, 1, *[-1] * 7]
    assert LAYOUT.num_images == (2, 1)


@pytest.mark.parametrize("count", [575, 577, 0])
def test_placeholders_that_do_not_fit(count: int) -> None:
    with pytest.raises(LayoutError) as error:
        Layout.build([range(576), range(count)], [[Block(0, 24, 24)]] * 2)
    assert str(error.value) == f"sample 1 has {count} image placeholders but its grids (24, 24) need 576."
    assert isinstance(error.value, ValueError)


def test_placeholders_without_picture() -> None:
    with pytest.raises(LayoutError, match="sample 0 has 3 image placeholders but its grids none need 0"):
        Layout.build([range(3)], [[]])


def test_no_pictures_at_all() -> None:
    layout = Layout.build([[], []], [[], []])
    assert layout.num_tokens == (0, 0)
    assert layout.slot.shape == (2, 0)
    assert layout.num_images == (0, 0)
    units = layout.split("tile")
    assert len(units) == 0
    assert units.num_tokens == ()


@pytest.mark.parametrize(
    "unit, rows, sizes",
    [
        ("prompt", (0, 1), (11, 4)),
        ("image", (0, 0, 1), (8, 3, 4)),
        ("tile", (0, 0, 0, 1, 1), (2, 6, 3, 2, 2)),  # a frame is a grid of its own
        ("frame", (0, 0, 1, 1), (8, 3, 2, 2)),
    ],
)
def test_split(unit: str, rows: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    units = LAYOUT.split(unit)  # type: ignore[arg-type]
    assert units.source_row == rows
    assert units.num_tokens == sizes
    assert len(units) == len(sizes)
    for row in (0, 1):  # each token belongs to one unit of its row
        places = torch.cat([i[i >= 0] for i, r in zip(units.index, rows, strict=True) if r == row])
        assert sorted(places.tolist()) == list(range(LAYOUT.num_tokens[row]))
    for u, row in enumerate(rows):
        index = units.index[u, : sizes[u]]
        assert torch.equal(units.layout.slot[u, : sizes[u]], LAYOUT.slot[row, index])
        assert units.layout.slot[u, sizes[u] :].eq(-1).all()


def test_split_keeps_the_blocks_of_each_unit() -> None:
    assert LAYOUT.split("tile").layout.blocks == tuple((b,) for row in BLOCKS for b in row)
    assert LAYOUT.split("image").layout.blocks[2] == tuple(BLOCKS[1])
    assert LAYOUT.split("frame").layout.blocks[2:] == ((BLOCKS[1][0],), (BLOCKS[1][1],))
    assert LAYOUT.split("image").layout.blocks[1] == (BLOCKS[0][2],)


def test_gather_drops_blocks_without_tokens() -> None:
    kept = LAYOUT.gather(torch.tensor([[8, 10], [1, -1]]), (0, 1))
    assert kept.num_tokens == (2, 1)
    assert kept.slot.tolist() == [[20, 22], [4, -1]]
    assert kept.column.tolist() == [[0, 2], [1, -1]]
    assert kept.blocks == ((BLOCKS[0][2],), (BLOCKS[1][0],))


def test_grids() -> None:
    assert Layout.single(2, 3, 4, first_slot=5).grids == ((3, 4), (3, 4))
    assert Layout.single(1, 3, 4, first_slot=5).slot.tolist() == [list(range(5, 17))]
    assert LAYOUT.split("tile").layout.gather(torch.tensor([[0, 1]]), (0,)).grids == ((1, 2),)


@pytest.mark.parametrize(
    "layout, message",
    [
        (LAYOUT, r"item 0 has 11 tokens of 3 grid\(s\) with 11 places"),
        (Layout.build([range(6)], [[Block(0, 2, 2, newlines=True)]]), r"item 0 has 6 tokens of 1 grid\(s\) with 6"),
        (Layout.single(1, 2, 2).gather(torch.tensor([[0, 1, 3]]), (0,)), r"item 0 has 3 tokens of 1 grid\(s\) with 4"),
    ],
)
def test_no_whole_grid(layout: Layout, message: str) -> None:
    with pytest.raises(LayoutError, match="a whole grid is needed; " + message):
        _ = layout.grids


def test_groups_are_worked_out_once() -> None:
    layout = Layout.build([range(3, 9), range(2, 4)], [[Block(0, 1, 2), Block(1, 2, 2)], [Block(0, 1, 2)]])
    units = layout.split("image")
    assert layout.split("image") is units
    assert layout.split("prompt").num_tokens == (6, 2)
    assert units.num_tokens == (2, 4, 2)
    assert [[(b.image, b.rows, b.columns) for b in blocks] for blocks in units.layout.blocks] == [
        [(0, 1, 2)],
        [(1, 2, 2)],
        [(0, 1, 2)],
    ]


MOSAIC = [  # a thumbnail, two tiles side by side whose lines end with a newline, and a newline behind it all
    Block(0, 2, 2, role=THUMBNAIL),
    Block(0, 2, 2, tile=1, top=0, left=0),
    Block(0, 2, 1, tile=2, top=0, left=2, newlines=True),
    Block(0, 1, 0, tile=2, newlines=True),
]


def test_mosaic_stands_row_by_row() -> None:
    layout = Layout.build([range(5, 18)], [MOSAIC])
    assert layout.tile.tolist() == [[0, 0, 0, 0, 1, 1, 2, 2, 1, 1, 2, 2, 2]]
    assert layout.row.tolist() == [[0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0]]
    assert layout.column.tolist() == [[0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0]]
    assert layout.role.tolist() == [[2, 2, 2, 2, 0, 0, 0, 1, 0, 0, 0, 1, 1]]
    assert layout.line.tolist() == [[-1, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 1, -1]]
    assert layout.has(NEWLINE)
    assert not layout.has(3)


def test_lines_count_through_a_prompt() -> None:
    second = [replace(b, image=1) for b in MOSAIC[1:3]]
    frames = [Block(2, 1, 2, frame=f, newlines=True) for f in range(2)]
    layout = Layout.build([range(27)], [[*MOSAIC, *second, *frames]])
    assert layout.line[0, 13:].tolist() == [2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 5, 5, 5]


def test_split_without_a_role() -> None:
    layout = Layout.build([range(13)], [MOSAIC])
    units = layout.split("tile", frozenset({NEWLINE}))
    assert units.num_tokens == (4, 4, 2)
    assert units.index.tolist() == [[0, 1, 2, 3], [4, 5, 8, 9], [6, 10, -1, -1]]
    assert units.layout.grids == ((2, 2), (2, 2), (2, 1))
    assert layout.split("tile").num_tokens == (4, 4, 5)
    assert layout.split("image", frozenset({NEWLINE, THUMBNAIL})).num_tokens == (6,)
