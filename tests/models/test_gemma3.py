"""The Gemma 3 adapter against pooling, masks, rotations and attention of transformers itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from laid_out import places, without_two_placeholders
from PIL import Image
from torch import Tensor

from spying import seen_by
from tessella.core.errors import LayoutError
from tessella.core.view import Captures
from tessella.models.adapter import find_adapter
from tessella.models.placing import layout_of
from tessella.testing.families import tiny_family
from tessella.testing.families.gemma3 import WINDOW

FAMILY = tiny_family("gemma3")
SIDE = 4  # tokens, of 2 x 2 patches


@pytest.fixture(scope="module")
def model() -> Any:
    return FAMILY.model()


def test_info_and_capabilities(model: Any) -> None:
    adapter = find_adapter(model)
    info = adapter.info
    assert (info.family, info.num_layers, info.num_encoder_layers, info.feature_layer) == ("gemma3", 4, 4, 3)
    assert (info.has_class_token, info.multi_axis_positions) == (False, False)
    assert {"pixels", "attention_received"} <= adapter.capabilities
    assert not {"class_token", "sizes"} & adapter.capabilities


def test_the_layout_is_where_the_model_pools(model: Any) -> None:
    """A token that the connector pools from patches around (y, x) stands in row y // 2 and column x // 2."""
    inputs = FAMILY.inputs([[(56, 56), (120, 60)], [], [(56, 56)]])
    down, across = torch.meshgrid(torch.arange(2.0 * SIDE), torch.arange(2.0 * SIDE), indexing="ij")
    centres = pooled(model, torch.stack([down, across], dim=2).reshape(1, -1, 2))[0]
    assert centres[:2].tolist() == [[0.5, 0.5], [0.5, 2.5]]
    for row, shown in enumerate(places(model, inputs, "slot", "image", "row", "column", "tile", "frame", "role")):
        slots = (inputs["input_ids"][row] == model.config.image_token_id).nonzero()[:, 0].tolist()
        assert [s for s, *_ in shown] == slots
        assert [t[1] for t in shown] == [n // SIDE**2 for n in range(len(slots))]
        assert [list(t[2:4]) for t in shown] == (centres // 2).tolist() * (len(slots) // SIDE**2)
        assert all(t[4:] == (0, 0, 0) for t in shown)


def test_crops_of_pan_and_scan_are_pictures_of_their_own(model: Any) -> None:
    picture = Image.effect_noise((120, 40), 64).convert("RGB")
    settings = {"pan_and_scan_min_crop_size": 8, "pan_and_scan_max_num_crops": 3}
    inputs = FAMILY.processor()(
        text="see <start_of_image> what",
        images=[picture],
        do_pan_and_scan=True,
        pan_and_scan_min_ratio_to_activate=1.2,
        return_tensors="pt",
        **settings,
    )
    assert len(inputs["pixel_values"]) == 4  # the whole and three crops
    (shown,) = places(model, inputs, "image")
    assert [image for (image,) in shown] == [n // SIDE**2 for n in range(4 * SIDE**2)]


def test_features_through_the_connector_are_the_embeddings(model: Any) -> None:
    inputs = FAMILY.inputs([[(56, 56), (120, 60)], [(56, 56)]])
    projected, embeddings = seen_by(lambda v: (v.connector(v.features()), v.tokens.embeddings), model, inputs)
    torch.testing.assert_close(projected, embeddings, atol=1e-5, rtol=1e-5)


def test_attention_and_keys_are_the_means_over_a_tokens_patches(model: Any) -> None:
    inputs = FAMILY.inputs([[(56, 56), (120, 60)]])
    received, keys = seen_by(
        lambda v: (v.attention_received(1)[0], v.encoder_keys(1)[0].transpose(0, 1)),
        model,
        inputs,
        layers=Captures(encoder=(1,)),
    )
    seen: list[Tensor] = []
    tower = FAMILY.model(attention="eager").model.vision_tower
    layers = getattr(tower, "vision_model", tower).encoder.layers
    layers[1].self_attn.k_proj.register_forward_hook(lambda *a: seen.append(a[2]))
    with torch.no_grad():
        weights = tower(inputs["pixel_values"], output_attentions=True).attentions[1]
    expected = pooled(model, weights.mean(dim=(1, 2))[..., None])
    torch.testing.assert_close(received, expected.flatten(), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(keys.flatten(1), pooled(model, seen[0]).flatten(0, 1), atol=1e-5, rtol=1e-4)


def test_layers_that_slide_have_their_own_rule_and_rotation(model: Any) -> None:
    adapter, inputs, seen = find_adapter(model), FAMILY.inputs(), []
    hooks = [
        layer.register_forward_pre_hook(lambda m, a, k: seen.append((a[0], k)), with_kwargs=True)
        for layer in model.model.language_model.layers
    ]
    with torch.no_grad():
        model(**inputs)
    for hook in hooks:
        hook.remove()
    here = torch.arange(40)
    for number, (hidden, given) in enumerate(seen):
        for shown, expected in zip(
            adapter.rotary(hidden, given["position_ids"], number), given["position_embeddings"], strict=True
        ):
            assert torch.equal(shown, expected)
        rule = adapter.mask_rule(number)
        if number % 3 == 1:
            assert rule is None
        else:
            assert rule(here[None, -1:, None], here[None, None]).tolist() == [[[n > 39 - WINDOW for n in range(40)]]]
    first, second = (given["position_embeddings"][0] for _, given in seen[:2])
    assert not torch.equal(first, second)


def test_misfits_are_named(model: Any) -> None:
    short = without_two_placeholders(FAMILY.inputs(), model.config.image_token_id)
    with pytest.raises(LayoutError, match=r"sample 0 has 14 image placeholders but its 1 picture\(s\) \[\(4, 4\)\]"):
        layout_of(find_adapter(model), short)


def pooled(model: Any, values: Tensor) -> Tensor:
    """Values of patches `[pictures, patches, n]` through the connector's pooling: `[pictures, tokens, n]`."""
    grid = values.transpose(1, 2).unflatten(2, (2 * SIDE, 2 * SIDE))
    return model.model.multi_modal_projector.avg_pool(grid).flatten(2).transpose(1, 2)


def test_attention_scale_is_the_layer_s_own() -> None:
    """Gemma 3 scales by a setting of its own, which feather reads."""
    model = FAMILY.model()
    scalar = model.config.text_config.query_pre_attn_scalar
    assert scalar != model.config.text_config.head_dim
    seen = seen_by(lambda v: [v.attention_scale(n) for n in range(4)], model, FAMILY.inputs(), at_layer=1)
    assert seen == [pytest.approx(scalar**-0.5)] * 4
