"""The LLaVA adapter against what transformers itself says of the model."""

from __future__ import annotations

import json

import pytest
import torch

from tessella.core.errors import LayoutError, UnsupportedError
from tessella.models.adapter import find_adapter, recorded_statistics
from tessella.models.placing import layout_of
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava


@pytest.mark.parametrize("encoder", ["clip", "siglip"])
def test_info_and_capabilities(encoder: str) -> None:
    adapter = find_adapter(tiny_llava(encoder, num_layers=3))
    assert (adapter.info.num_layers, adapter.info.num_encoder_layers, adapter.info.feature_layer) == (3, 4, 2)
    assert adapter.info.has_class_token == (encoder == "clip")
    assert ("class_token" in adapter.capabilities) == (encoder == "clip")


def test_feature_layer_is_the_one_the_connector_reads() -> None:
    model, inputs = tiny_llava(), tiny_inputs((1,))
    adapter, seen = find_adapter(model), {}
    adapter.encoder_layers[adapter.info.feature_layer].register_forward_hook(lambda *a: seen.update(layer=a[2]))
    adapter.connector.register_forward_pre_hook(lambda *a: seen.update(connector=a[1][0]))
    with torch.no_grad():
        model(**inputs)
    assert torch.equal(seen["layer"][:, 1:], seen["connector"])


def test_layout_follows_placeholders_and_picture_sizes() -> None:
    inputs = tiny_inputs((2, 0, 1), padding="left")
    layout = layout_of(find_adapter(tiny_llava()), inputs)
    assert layout.num_tokens == (32, 0, 16)
    assert layout.num_images == (2, 0, 1)
    for row, ids in enumerate(inputs["input_ids"]):
        slots = layout.slot[row, : layout.num_tokens[row]]
        assert slots.tolist() == (ids == IMAGE_TOKEN).nonzero().reshape(-1).tolist()
    wide = {"input_ids": torch.tensor([[1] + [IMAGE_TOKEN] * 8]), "pixel_values": torch.zeros(1, 3, 14, 28)}
    assert layout_of(find_adapter(tiny_llava()), wide).grids == ((2, 4),)


def test_a_prompt_without_pixels_has_no_layout() -> None:
    assert layout_of(find_adapter(tiny_llava()), {"input_ids": torch.tensor([[1, IMAGE_TOKEN, 7]])}) is None


def test_misfits_are_named() -> None:
    adapter, inputs = find_adapter(tiny_llava()), tiny_inputs((1,))
    short = {**inputs, "input_ids": torch.cat([inputs["input_ids"][:, :3], inputs["input_ids"][:, 5:]], dim=1)}
    with pytest.raises(LayoutError, match="sample 0 has 14 image placeholders but its 1 picture"):
        layout_of(adapter, short)
    more = {**inputs, "pixel_values": inputs["pixel_values"].repeat(2, 1, 1, 1)}
    with pytest.raises(LayoutError, match="2 pictures were given but the prompts hold placeholders for 1"):
        layout_of(adapter, more)


@pytest.mark.parametrize(
    ("encoder", "change", "reason"),
    [
        ("clip", {"vision_feature_select_strategy": "full"}, "makes the class token a visual token"),
        ("siglip", {"vision_feature_select_strategy": "default"}, "drops the first patch"),
        ("clip", {"vision_feature_layer": [-2, -1]}, "joins several layers"),
        ("clip", {"vision_feature_layer": 0}, "is the embedding, not a layer"),
    ],
)
def test_configs_without_a_grid_are_refused(encoder: str, change: dict, reason: str) -> None:
    model = tiny_llava(encoder)
    for name, value in change.items():
        setattr(model.config, name, value)
    with pytest.raises(UnsupportedError, match=reason):
        find_adapter(model)


def test_other_models_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"no adapter for model type 'clip_vision_model'; known: .*llava, "):
        find_adapter(tiny_llava().model.vision_tower)


def test_statistics_come_from_the_folder(tmp_path) -> None:
    assert recorded_statistics("") is None
    assert recorded_statistics(str(tmp_path)) is None
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]})
    )
    assert recorded_statistics(str(tmp_path)) == ((0.1, 0.2, 0.3), (1, 2, 3))
    model = tiny_llava("siglip")
    assert find_adapter(model).pixel_statistics() == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    model.model.config._name_or_path = str(tmp_path)
    assert find_adapter(model).pixel_statistics()[0] == (0.1, 0.2, 0.3)
