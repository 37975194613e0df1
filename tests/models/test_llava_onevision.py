"""LLaVA-OneVision: what its adapter says of the model, what is shrunk, and what stands untiled."""

from __future__ import annotations

import pytest
import torch

from tessella.core.errors import LayoutError, UnsupportedError
from tessella.core.layout import NEWLINE, THUMBNAIL, Block
from tessella.models.adapter import find_adapter
from tessella.models.bilinear import shrink
from tessella.models.mosaic import mosaic_footprint
from tessella.models.placing import layout_of
from tessella.testing.families import tiny_family

FAMILY = tiny_family("llava_onevision")


def test_info_and_capabilities() -> None:
    adapter = find_adapter(FAMILY.model(num_layers=3))
    info = adapter.info
    assert (info.family, info.num_layers, info.num_encoder_layers, info.feature_layer) == ("llava_onevision", 3, 4, 3)
    assert not info.has_class_token
    assert set(adapter.modalities) == {"image", "video"}
    assert "class_token" not in adapter.capabilities


@pytest.mark.parametrize(
    ("rows", "columns", "shape"),
    [(5, 5, (3, 3)), (15, 15, (10, 10)), (27, 27, (14, 14)), (7, 10, (6, 9)), (4, 6, (2, 6))],
)
def test_shrinking_is_bilinear_interpolation(rows: int, columns: int, shape: tuple[int, int]) -> None:
    grid = torch.rand(rows, columns)
    shrunk = shrink(rows, columns, shape)
    mixed = (grid[shrunk.row, shrunk.column] * shrunk.weight).sum(dim=2)
    expected = torch.nn.functional.interpolate(grid[None, None], shape, mode="bilinear")[0, 0]
    torch.testing.assert_close(mixed, expected)
    middle = ((torch.arange(shape[0], dtype=torch.float64) + 0.5) * rows / shape[0]).floor().long()
    assert shrunk.middle_row.tolist() == middle.tolist()


def test_large_pictures_are_shrunk_to_the_limit() -> None:
    """3 x 3 tiles of 5 x 5 tokens are more than 4 tiles have: 15 x 15 become 10 x 10, cut at tokens 3.3 and 6.7."""
    layout = layout_of(find_adapter(FAMILY.model()), FAMILY.inputs([[(105, 105)]]))
    thumbnail, *tiles = layout.blocks[0]
    assert thumbnail == Block(0, 5, 5, role=THUMBNAIL)
    assert [(b.tile, b.rows, b.columns) for b in tiles] == [
        (1 + 3 * i + j, rows, columns) for i, rows in enumerate((3, 4, 3)) for j, columns in enumerate((3, 4, 3))
    ]
    assert layout.num_tokens == (25 + 10 * 11,)


@pytest.mark.parametrize(
    ("grid", "most", "shape"),
    [
        ((2, 3), 4, (8, 12)),
        ((1, 5), 4, (4, 22)),
        ((2, 2), 4, (10, 10)),
        ((2, 3), 5, (10, 15)),
        ((3, 3), None, (15, 15)),
    ],
)
def test_a_little_more_than_the_limit_is_not_shrunk(grid, most, shape) -> None:
    """A mosaic with more than 1.1 x 1.1 times the tokens of the limit is."""
    footprint = mosaic_footprint(grid, 5, (grid[0] * 35, grid[1] * 35), most)
    tiles = footprint.blocks[1:]
    assert (max(b.top + b.rows for b in tiles), max(b.left + b.columns for b in tiles)) == shape
    assert footprint.num_tokens == 25 + shape[0] * (shape[1] + 1)


def test_several_pictures_of_a_prompt_are_not_tiled() -> None:
    """Each is one grid and a newline behind it; the picture of the other prompt is cut as ever."""
    inputs = FAMILY.inputs([[(70, 70), (100, 20)], [(30, 70)]])
    layout = layout_of(find_adapter(FAMILY.model()), inputs)
    assert layout.blocks[0] == tuple(
        block for image in (0, 1) for block in (Block(image, 5, 5), Block(image, 1, 0, newlines=True))
    )
    assert (layout.role[0] == NEWLINE).nonzero().reshape(-1).tolist() == [25, 51]
    assert layout.blocks[1][0] == Block(0, 5, 5, role=THUMBNAIL)
    listed = {**inputs, "batch_num_images": [2, 1]}
    assert layout_of(find_adapter(FAMILY.model()), listed).blocks == layout.blocks


def test_a_clip_ends_with_one_newline() -> None:
    layout = layout_of(find_adapter(FAMILY.model()), FAMILY.inputs(videos=[[(2, (40, 30))]]))
    assert layout.blocks[0] == (Block(0, 3, 3), Block(0, 3, 3, frame=1), Block(0, 1, 0, frame=1, newlines=True))
    assert layout.role[0].tolist() == [0] * 18 + [NEWLINE]


def test_misfits_are_named() -> None:
    adapter, inputs = find_adapter(FAMILY.model()), FAMILY.inputs([[(70, 70), (100, 20)]])
    without = {n: v for n, v in inputs.items() if n != "batch_num_images"}
    with pytest.raises(LayoutError, match="sample 0 has 52 image placeholders but its 1 picture"):
        layout_of(adapter, without)


@pytest.mark.parametrize("ratio", ["anyres", "square"])
def test_limits_without_a_number_are_refused(ratio: str) -> None:
    model, inputs = FAMILY.model(), FAMILY.inputs()
    model.config.vision_aspect_ratio = ratio
    with pytest.raises(UnsupportedError, match=f"vision_aspect_ratio='{ratio}' names no number of tiles"):
        layout_of(find_adapter(model), inputs)


def test_another_limit_than_the_configs_is_refused() -> None:
    adapter, inputs = find_adapter(FAMILY.model()), FAMILY.inputs()
    assert layout_of(adapter, {**inputs, "vision_aspect_ratio": "anyres_max_4"}) is not None
    with pytest.raises(UnsupportedError, match="vision_aspect_ratio='anyres_max_9' differs from the 'anyres_max_4'"):
        layout_of(adapter, {**inputs, "vision_aspect_ratio": "anyres_max_9"})
