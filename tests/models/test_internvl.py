"""InternVL: what its adapter says of the model, and which tiles are one picture."""

from __future__ import annotations

import pytest
import torch
from library_packing import entries_of
from torch import Tensor, nn

import tessella
from spying import seen_by
from tessella.core.errors import LayoutError, UnsupportedError
from tessella.core.layout import PATCH, THUMBNAIL
from tessella.models.adapter import find_adapter
from tessella.models.placing import layout_of
from tessella.testing.families import tiny_family

FAMILY = tiny_family("internvl")
TOKENS = 16  # of a tile


def test_info_and_capabilities() -> None:
    adapter = find_adapter(FAMILY.model(num_layers=3))
    info = adapter.info
    assert (info.family, info.num_layers, info.num_encoder_layers, info.feature_layer) == ("internvl", 3, 4, 3)
    assert (info.has_class_token, info.merge) == (True, 2)
    assert {"class_token", "grid", "pixels"} <= adapter.capabilities
    assert not {"class_features", "sizes"} & adapter.capabilities


def test_a_class_token_does_not_fit_the_connector() -> None:
    """Its features are a quarter as wide as what a token's four patches are side by side."""
    model = FAMILY.model()
    assert tessella.can_apply(model, "fastervlm")
    verdict = tessella.can_apply(model, "visionzip")
    assert not verdict
    assert verdict.reason == (
        "visionzip needs a class token whose features the connector can take; this internvl model has none."
    )
    assert tessella.can_apply(tiny_family("llava_next").model(), "visionzip")


@pytest.mark.parametrize(("setting", "layer"), [(-1, 3), (-2, 2), (1, 0)])
def test_feature_layer_is_the_one_the_connector_reads(setting: int, layer: int) -> None:
    model, seen = FAMILY.model(), {}
    model.config.vision_feature_layer = setting
    adapter = find_adapter(model)
    assert adapter.info.feature_layer == layer
    adapter.encoder_layers[layer].register_forward_hook(lambda *a: seen.update(layer=a[2]))
    adapter.connector.register_forward_pre_hook(lambda *a: seen.update(connector=a[1][0]))
    with torch.no_grad():
        model(**FAMILY.inputs())
    assert sorted(seen["connector"].reshape(-1).tolist()) == sorted(seen["layer"][:, 1:].reshape(-1).tolist())


def test_a_token_is_four_patches_in_raster_order() -> None:
    model, inputs = FAMILY.model(), FAMILY.inputs([[(80, 40)]])
    footprints = [f for entry in find_adapter(model).footprints("image", inputs) for f in entry]
    entries = entries_of(model, inputs, class_token=True)[0]
    assert len(footprints) == len(entries) == 3
    for tile, (footprint, entry) in enumerate(zip(footprints, entries, strict=True)):
        assert torch.equal(footprint.patches + tile * 64, entry.ordered)
    assert footprints[0].patches[5].tolist() == [18, 19, 26, 27]


def by_processor(ids: Tensor) -> list[tuple[int, int, int]]:
    """Slot, image and tile of each placeholder, from the markers that the processor puts around a picture."""
    tokenizer, out = FAMILY.processor().tokenizer, []
    image, count = -1, 0
    for slot, token in enumerate(ids.tolist()):
        if token == tokenizer.start_image_token_id:
            image, count = image + 1, 0
        elif token == tokenizer.context_image_token_id:
            out.append((slot, image, count // TOKENS))
            count += 1
    return out


@pytest.mark.parametrize(
    "case",
    [
        {"images": [[size] for size in FAMILY.sizes]},
        {"images": [[(80, 40), (32, 32)], [(32, 32), (64, 64)], []], "padding": "right"},
        {"videos": [[(3, (30, 40)), (3, (32, 32))]]},
        {"images": [[(40, 120)], []], "videos": [[(2, (32, 32))], [(2, (50, 30))]]},
    ],
    ids=["sizes", "several", "clips", "pictures and clips"],
)
@pytest.mark.parametrize("embedded", [False, True])
def test_tiles_between_two_markers_are_one_picture(case: dict, embedded: bool) -> None:
    """The last of several is the thumbnail; each frame of a clip is a picture of one tile."""
    model, inputs = FAMILY.model(), FAMILY.inputs(**case)
    given = inputs
    if embedded:
        given = {n: v for n, v in inputs.items() if n != "input_ids"}
        given["inputs_embeds"] = model.get_input_embeddings()(inputs["input_ids"])
    layout = layout_of(find_adapter(model), given)
    for row, ids in enumerate(inputs["input_ids"]):
        expected = by_processor(ids)
        count = layout.num_tokens[row]
        told = torch.stack([layout.slot, layout.image, layout.tile], dim=-1)[row, :count]
        assert [tuple(t) for t in told.tolist()] == expected
        last = {image: tile for _, image, tile in expected}
        roles = [THUMBNAIL if last[i] and tile == last[i] else PATCH for _, i, tile in expected]
        assert layout.role[row, :count].tolist() == roles
        assert layout.row[row, :count].tolist() == [n % TOKENS // 4 for n in range(count)]
        assert layout.column[row, :count].tolist() == [n % 4 for n in range(count)]


def test_connector_reads_what_a_last_norm_makes_of_the_encoder() -> None:
    config = FAMILY.config()
    config.vision_config.use_mean_pooling = False
    torch.manual_seed(0)
    model = type(FAMILY.model())(config).eval()
    nn.init.normal_(model.model.vision_tower.layernorm.weight)
    projected, embedded = seen_by(lambda v: (v.connector(v.features()), v.tokens.embeddings), model, FAMILY.inputs())
    torch.testing.assert_close(projected, embedded, atol=1e-5, rtol=1e-5)


def test_misfits_are_named() -> None:
    adapter, inputs = find_adapter(FAMILY.model()), FAMILY.inputs([[(80, 40)]])
    with pytest.raises(LayoutError, match="sample 0 has 48 image placeholders but its 2 picture"):
        layout_of(adapter, {**inputs, "pixel_values": inputs["pixel_values"][:2]})
    with pytest.raises(LayoutError, match="4 pictures were given but the prompts hold placeholders for 3"):
        layout_of(adapter, {**inputs, "pixel_values": torch.cat([inputs["pixel_values"], inputs["pixel_values"][:1]])})


def test_features_alone_tell_a_square_grid() -> None:
    adapter = find_adapter(FAMILY.model())
    footprint = adapter.footprints_of_features("image", torch.zeros(1, 16, 32))[0]
    assert [(b.rows, b.columns) for b in footprint.blocks] == [(4, 4)]
    assert footprint.num_patches == 64
    with pytest.raises(LayoutError, match="encoded features of 15 tokens are not a square grid"):
        adapter.footprints_of_features("image", torch.zeros(1, 15, 32))


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


def test_another_encoder_is_refused() -> None:
    model = FAMILY.model()
    model.model.vision_tower = tiny_family("llava").model().model.vision_tower
    with pytest.raises(UnsupportedError, match="the vision encoder CLIPVisionModel is not InternVL's"):
        find_adapter(model)
