"""Attention of chosen patches against eager attention, and values of colours against the pictures themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from spying import seen_by
from tessella.core.errors import UnsupportedError
from tessella.core.view import Captures, View
from tessella.models.adapter import find_adapter
from tessella.testing.families import tiny_family
from tessella.testing.tiny import tiny_inputs, tiny_llava


def most_received(received: Tensor) -> Tensor:
    """The two patches of each picture that receive most; of a picture whose first receives most, that one only."""
    top = received.topk(2, dim=1).indices
    return torch.where(top == 0, -1, top)


@pytest.mark.parametrize("encoder", ["clip", "siglip"])
@pytest.mark.parametrize("total", [False, True])
def test_attention_of_chosen_patches_is_that_of_the_encoder(encoder: Any, total: bool) -> None:
    inputs = tiny_inputs((2, 1), padding="left")
    model = tiny_llava(encoder)
    layers = Captures(encoder=(2,))
    shown = seen_by(lambda v: v.attention_from(2, most_received, total), model, inputs, layers=layers, scope="image")
    eager = tiny_llava(encoder, attention="eager").model.vision_tower
    with torch.no_grad():
        whole = eager(inputs["pixel_values"], output_attentions=True).attentions[2].mean(dim=1)
    first = int(encoder == "clip")
    among = whole[:, first:, first:]
    for picture, rows in zip(shown, among, strict=True):
        (chosen,) = most_received(rows.mean(dim=0)[None])
        asked = rows[chosen[chosen >= 0]]
        torch.testing.assert_close(picture, asked.sum(dim=0) if total else asked.mean(dim=0), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("family", ["llava_next", "llava_onevision", "qwen2_5_vl", "internvl"])
def test_values_of_colours_go_with_their_patches(family: str) -> None:
    """The mean red of a token's patches: its own rectangle of the picture, where tokens are whole patches of one."""
    tiny = tiny_family(family)
    model, inputs = tiny.model(), tiny.inputs()
    adapter = find_adapter(model)
    size = adapter.entry.config.vision_config.patch_size
    height, width = (size, size) if isinstance(size, int) else size

    def red(colours: Tensor, rows: int, columns: int) -> Tensor:
        assert colours.shape[2:] == (rows * height, columns * width)
        return colours[:, 0].unflatten(2, (columns, width)).unflatten(1, (rows, height)).mean(dim=(2, 4)).flatten(1)

    def look(view: View) -> tuple[Tensor, Any, Tensor]:
        try:
            pixels = view.pixels()
        except UnsupportedError:  # a mosaic
            pixels = torch.empty(0)
        return view.per_patch(red), view.layout, pixels

    values, layout, pixels = seen_by(look, model, inputs, layers=Captures(encoder=(1,)), scope="tile")
    mean, std = (torch.tensor(s)[0] for s in adapter.pixel_statistics())
    merge = adapter.info.merge
    compared = 0
    for b, blocks in enumerate(layout.blocks):
        real = layout.mask[b] & (layout.role[b] != 1)
        assert (values[b, : layout.num_tokens[b]][layout.role[b, : layout.num_tokens[b]] == 1] == 0).all()
        whole = pixels[b, 0].shape[0] // (height * merge), pixels[b, 0].shape[1] // (width * merge)
        if whole != (blocks[0].rows, blocks[0].columns) or len(blocks) > 1:
            continue  # cut or shrunk
        token = pixels[b, 0, : whole[0] * height * merge, : whole[1] * width * merge]
        token = token.unflatten(1, (whole[1], -1)).unflatten(0, (whole[0], -1)).mean(dim=(1, 3))
        want = (token * std + mean) * 255
        places = layout.row[b, real], layout.column[b, real]
        torch.testing.assert_close(values[b][real], want[places], atol=1e-3, rtol=1e-4)
        compared += 1
    assert compared > 0
