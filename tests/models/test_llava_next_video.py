"""LLaVA-NeXT-Video: what its adapter says of the model, and how frames are pooled."""

from __future__ import annotations

import pytest
import torch

from spying import seen_by
from tessella.core.errors import LayoutError
from tessella.core.layout import Block
from tessella.models.adapter import find_adapter
from tessella.models.llava_next_video import pooled_clip
from tessella.models.placing import layout_of
from tessella.testing.families import tiny_family

FAMILY = tiny_family("llava_next_video")


def test_info_and_capabilities() -> None:
    adapter = find_adapter(FAMILY.model(num_layers=3))
    info = adapter.info
    assert (info.family, info.num_layers, info.num_encoder_layers, info.feature_layer) == ("llava_next_video", 3, 4, 2)
    assert info.has_class_token
    assert set(adapter.modalities) == {"image", "video"}
    assert "class_token" in adapter.capabilities


def test_a_frame_is_a_grid_of_its_own_without_newlines() -> None:
    layout = layout_of(find_adapter(FAMILY.model()), FAMILY.inputs(videos=[[(3, (40, 30)), (3, (30, 40))]]))
    assert layout.blocks[0] == tuple(Block(image, 2, 2, frame=frame) for image in (0, 1) for frame in range(3))


@pytest.mark.parametrize(("side", "stride"), [(4, 2), (5, 2), (7, 3), (4, 1)])
def test_tokens_of_clips_are_what_pooling_makes_of_frames(side: int, stride: int) -> None:
    """What is left over at the right and at the bottom is cut off."""
    frames = torch.rand(3, 1, side, side)
    footprint = pooled_clip(3, side, stride)
    pooled = torch.nn.functional.avg_pool2d(frames, stride)
    torch.testing.assert_close(frames.reshape(-1)[footprint.patches].mean(dim=1), pooled.reshape(-1))
    assert [(b.rows, b.columns, b.frame) for b in footprint.blocks] == [(*pooled.shape[2:], f) for f in range(3)]


@pytest.mark.parametrize("mode", ["max", "conv"])
def test_other_pooling_still_projects_to_the_models_embeddings(mode: str) -> None:
    config = FAMILY.config()
    config.spatial_pool_mode = mode
    torch.manual_seed(0)
    model = type(FAMILY.model())(config).eval()
    inputs = FAMILY.inputs(videos=[[(2, (28, 28))]])
    projected, embedded = seen_by(lambda v: (v.connector(v.features()), v.tokens.embeddings), model, inputs)
    assert projected.shape[1] == 8
    torch.testing.assert_close(projected, embedded, atol=1e-5, rtol=1e-5)


def test_misfits_are_named() -> None:
    adapter, inputs = find_adapter(FAMILY.model()), FAMILY.inputs(videos=[[(4, (28, 28))]])
    fewer = {**inputs, "pixel_values_videos": inputs["pixel_values_videos"][:, :3]}
    with pytest.raises(LayoutError, match=r"sample 0 has 16 video placeholders but its 1 clip\(s\)"):
        layout_of(adapter, fewer)
