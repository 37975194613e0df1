"""The PaliGemma adapter, with Gemma and with Gemma 2, against what transformers itself says of the model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from laid_out import places, without_two_placeholders
from torch import Tensor

from spying import seen_by
from tessella.core.errors import LayoutError
from tessella.core.view import Captures
from tessella.models.adapter import HALF_STATISTICS, find_adapter
from tessella.models.placing import layout_of
from tessella.testing.families import TinyFamily, tiny_family
from tessella.testing.families.paligemma import WINDOW

FAMILIES = {text: replace(tiny_family("paligemma"), text=text) for text in ("gemma", "gemma2")}
SIDE = 4


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request: pytest.FixtureRequest) -> TinyFamily:
    return request.param


@cache
def tiny(text: str) -> Any:
    return FAMILIES[text].model()


def test_info_and_capabilities(family: TinyFamily) -> None:
    adapter = find_adapter(tiny(family.text))
    info = adapter.info
    assert (info.family, info.num_layers, info.num_encoder_layers, info.feature_layer) == ("paligemma", 4, 4, 3)
    assert (info.has_class_token, info.multi_axis_positions) == (False, False)
    assert {"pixels", "attention_received"} <= adapter.capabilities
    assert not {"class_token", "sizes"} & adapter.capabilities
    assert adapter.pixel_statistics() == HALF_STATISTICS


def test_the_layout_follows_the_patches_of_the_picture(family: TinyFamily) -> None:
    """The encoder cuts patches by a convolution, whose output is read in raster order."""
    model, inputs = tiny(family.text), family.inputs([[(28, 28), (60, 40)], [(28, 28)]])
    pixels, shown = inputs["pixel_values"], places(model, inputs, "slot", "image", "row", "column", "role")
    embed = embeddings_of(model)
    with torch.no_grad():
        before = embed(pixels)
        for row, column in ((0, 0), (1, 2), (3, 3)):
            changed = pixels.clone()
            changed[:, :, 7 * row : 7 * row + 7, 7 * column : 7 * column + 7] += 1
            places_changed = (embed(changed) - before)[0].abs().sum(dim=1).nonzero()[:, 0].tolist()
            assert [shown[0][n][2:4] for n in places_changed] == [(row, column)]
    for ids, mine in zip(inputs["input_ids"], shown, strict=True):
        assert [t[0] for t in mine] == (ids == model.config.image_token_id).nonzero()[:, 0].tolist()
        assert [t[1] for t in mine] == [n // SIDE**2 for n in range(len(mine))]
        assert [t[2:] for t in mine] == [(n % 16 // SIDE, n % SIDE, 0) for n in range(len(mine))]


def test_features_through_the_connector_are_what_layer_0_reads(family: TinyFamily) -> None:
    inputs = family.inputs([[(28, 28), (60, 40)], [(28, 28)]])
    projected, embeddings = seen_by(
        lambda v: (v.connector(v.features()), v.tokens.embeddings), tiny(family.text), inputs
    )
    torch.testing.assert_close(projected, embeddings, atol=1e-5, rtol=1e-5)


def test_attention_and_keys_are_those_of_the_encoder(family: TinyFamily) -> None:
    inputs = family.inputs([[(28, 28), (60, 40)]])
    received, keys = seen_by(
        lambda v: (v.attention_received(1)[0], v.encoder_keys(1)[0].transpose(0, 1)),
        tiny(family.text),
        inputs,
        layers=Captures(encoder=(1,)),
    )
    seen: list[Tensor] = []
    model = family.model(attention="eager")
    layers_of(model)[1].self_attn.k_proj.register_forward_hook(lambda *a: seen.append(a[2]))
    with torch.no_grad():
        weights = model.model.vision_tower(inputs["pixel_values"], output_attentions=True).attentions[1]
    torch.testing.assert_close(received, weights.mean(dim=(1, 2)).flatten(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(keys.flatten(1), seen[0].flatten(0, 1), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layer", [0, 1])
def test_rows_of_the_last_token_are_the_decoders(family: TinyFamily, layer: int) -> None:
    """Through windows, the block of the prompt, and Gemma 2's bound on scores, which is lowered until it matters."""
    model, eager = family.model(), family.model(attention="eager")
    if family.text == "gemma2":
        for decoder_layer in (*model.model.language_model.layers, *eager.model.language_model.layers):
            decoder_layer.self_attn.attn_logit_softcapping = 1.0
    inputs = family.inputs([[(28, 28), (60, 40)]])
    with torch.no_grad():
        rows = eager(**inputs, output_attentions=True).attentions[layer][:, :, -1]
    visual = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]
    captures = Captures(decoder=(layer,))
    shown = seen_by(lambda v: v.attention_rows(layer), model, inputs, layers=captures, at_layer=layer + 1)
    torch.testing.assert_close(shown[:, :, 0], rows[:, :, visual], atol=1e-6, rtol=1e-4)


def test_even_layers_of_gemma_2_slide(family: TinyFamily) -> None:
    adapter, here = find_adapter(tiny(family.text)), torch.arange(40)
    for number in range(4):
        rule = adapter.mask_rule(number)
        if family.text == "gemma2" and number % 2 == 0:
            assert rule(here[None, -1:, None], here[None, None]).tolist() == [[[n > 39 - WINDOW for n in range(40)]]]
        else:
            assert rule is None


def test_misfits_are_named(family: TinyFamily) -> None:
    model = tiny(family.text)
    short = without_two_placeholders(family.inputs(), model.config.image_token_id)
    with pytest.raises(LayoutError, match=r"sample 0 has 14 image placeholders but its 1 picture\(s\) \[\(4, 4\)\]"):
        layout_of(find_adapter(model), short)


def layers_of(model: Any) -> Any:
    tower = model.model.vision_tower
    return getattr(tower, "vision_model", tower).encoder.layers


def embeddings_of(model: Any) -> Any:
    tower = model.model.vision_tower
    return getattr(tower, "vision_model", tower).embeddings
