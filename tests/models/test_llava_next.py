"""LLaVA-NeXT: what its adapter says of the model, of one picture counted by hand, and of inputs that do not fit."""

from __future__ import annotations

import pytest
import torch

from tessella.core.errors import LayoutError, UnsupportedError
from tessella.core.layout import NEWLINE, THUMBNAIL, Block
from tessella.models.adapter import find_adapter
from tessella.models.mosaic import mosaic_footprint, tile_grid, unpadded
from tessella.models.placing import layout_of
from tessella.testing.families import tiny_family

FAMILY = tiny_family("llava_next")


def test_info_and_capabilities() -> None:
    adapter = find_adapter(FAMILY.model(num_layers=3))
    info = adapter.info
    assert (info.family, info.num_layers, info.num_encoder_layers, info.feature_layer) == ("llava_next", 3, 4, 2)
    assert info.has_class_token
    assert not info.multi_axis_positions
    assert {"class_token", "grid", "pixels"} <= adapter.capabilities
    assert "sizes" not in adapter.capabilities


def test_one_picture_counted_by_hand() -> None:
    """90 x 40 pixels make a row of three tiles of 28 pixels, 4 x 4 tokens.

    Scaled to 28 pixels of height the picture is 63 wide, 9 of the 12 columns. Of the 3 that only pad it one is cut on
    either side, and the third stays.
    """
    layout = layout_of(find_adapter(FAMILY.model()), FAMILY.inputs([[(90, 40)]]))
    assert layout.blocks[0] == (
        Block(0, 4, 4, role=THUMBNAIL),
        Block(0, 4, 3, tile=1, top=0, left=0),
        Block(0, 4, 4, tile=2, top=0, left=3),
        Block(0, 4, 3, tile=3, top=0, left=7, newlines=True),
    )
    assert layout.num_tokens == (16 + 4 * 11,)


def test_lines_end_with_a_newline_of_their_own() -> None:
    layout = layout_of(find_adapter(FAMILY.model()), FAMILY.inputs([[(56, 56), (56, 56)]]))
    newlines = layout.role[0] == NEWLINE
    assert newlines.nonzero().reshape(-1).tolist() == [16 + 8 + 9 * n for n in range(8)] + [
        88 + 16 + 8 + 9 * n for n in range(8)
    ]
    lines = layout.line[0]
    assert lines[newlines].tolist() == list(range(16))
    assert lines[:16].tolist() == [-1] * 16
    assert (lines[16:88] == torch.arange(8).repeat_interleave(9)).all()


@pytest.mark.parametrize(
    ("size", "grid", "left"),
    [
        ((56, 56), (2, 2), (0, 0, 8, 8)),
        ((30, 100), (1, 3), (0, 0, 4, 12)),
        ((30, 60), (2, 2), (2, 0, 4, 8)),
        ((60, 30), (2, 2), (0, 2, 8, 4)),
        ((41, 60), (2, 2), (1, 0, 6, 8)),
    ],
)
def test_padding_is_cut_off_alike_on_both_sides(size, grid, left) -> None:
    assert unpadded(grid[0] * 4, grid[1] * 4, size) == left


def test_a_tile_that_is_all_padding_has_no_block() -> None:
    footprint = mosaic_footprint((3, 1), 4, (400, 1000))
    assert {b.tile for b in footprint.blocks} == {0, 2}
    assert footprint.num_patches == 4 * 16


def test_pictures_are_cut_by_their_proportions() -> None:
    pinpoints = tuple((h * 28, w * 28) for h, w in ((1, 2), (2, 1), (2, 2), (1, 3), (3, 1)))
    assert [tile_grid((h, w), pinpoints, 28) for w, h in FAMILY.sizes] == [(2, 2), (1, 3), (3, 1), (2, 2)]


def test_tiles_may_stand_in_one_row() -> None:
    """Pixels [tiles, c, h, w] of all pictures, as well as [pictures, most tiles, c, h, w]."""
    adapter, inputs = find_adapter(FAMILY.model()), FAMILY.inputs([[(90, 40), (56, 56)]])
    stacked = inputs["pixel_values"]
    flat = {**inputs, "pixel_values": torch.cat([stacked[0, :4], stacked[1, :5]])}
    for given in (inputs, flat):
        first, second = adapter.pixels("image", given)
        assert torch.equal(first, stacked[0, :4])
        assert torch.equal(second, stacked[1])
    assert layout_of(adapter, flat).blocks == layout_of(adapter, inputs).blocks


def test_misfits_are_named() -> None:
    adapter, inputs = find_adapter(FAMILY.model()), FAMILY.inputs([[(56, 56)]])
    short = {**inputs, "input_ids": torch.cat([inputs["input_ids"][:, :4], inputs["input_ids"][:, 6:]], dim=1)}
    with pytest.raises(LayoutError, match="sample 0 has 86 image placeholders but its 1 picture"):
        layout_of(adapter, short)
    other_size = {**inputs, "image_sizes": torch.tensor([[30, 60]])}
    with pytest.raises(LayoutError, match="sample 0 has 88 image placeholders"):
        layout_of(adapter, other_size)
    twice = {n: v if n in ("input_ids", "attention_mask") else torch.cat([v, v]) for n, v in inputs.items()}
    with pytest.raises(LayoutError, match="2 pictures were given but the prompts hold placeholders for 1"):
        layout_of(adapter, twice)
    with pytest.raises(LayoutError, match="encoded image features alone do not tell the grid of a llava_next model"):
        adapter.footprints_of_features("image", [torch.zeros(88, 32)])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"vision_feature_select_strategy": "full"}, "makes the class token a visual token"),
        ({"vision_feature_layer": [-2, -1]}, "joins several layers"),
    ],
)
def test_settings_without_a_grid_are_refused(change: dict, reason: str) -> None:
    model = FAMILY.model()
    for name, value in change.items():
        setattr(model.config, name, value)
    with pytest.raises(UnsupportedError, match=reason):
        find_adapter(model)
