"""Idefics3 and SmolVLM against the prompts of their processors, and the shuffle and attention of transformers."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from laid_out import places, without_two_placeholders
from PIL import Image
from torch import Tensor

import tessella
from spying import seen_by
from tessella.core.errors import LayoutError, UnsupportedError
from tessella.core.layout import PATCH, THUMBNAIL
from tessella.core.view import Captures
from tessella.models.adapter import HALF_STATISTICS, find_adapter
from tessella.models.placing import layout_of
from tessella.testing.families import TinyFamily, tiny_families

FAMILIES = {n: f for n, f in tiny_families().items() if n in ("idefics3", "smolvlm")}
WIDE, SQUARE, TALL = (64, 30), (50, 50), (30, 70)  # 1 x 2, 2 x 2 and 2 x 1 tiles, and the whole
SIDE, TILE = 4, 16  # tokens
RAGGED = [[WIDE, SQUARE], [], [TALL]]


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request: pytest.FixtureRequest) -> TinyFamily:
    return request.param


@cache
def tiny(name: str, attention: str = "sdpa") -> Any:
    return FAMILIES[name].model(attention=attention)


def test_info_and_capabilities(family: TinyFamily) -> None:
    adapter = find_adapter(family.model(num_layers=3))
    info = adapter.info
    assert (info.family, info.num_layers, info.num_encoder_layers, info.feature_layer) == (family.id, 3, 4, 3)
    assert (info.has_class_token, info.merge, info.multi_axis_positions) == (False, 2, False)
    assert {"pixels", "attention_received"} <= adapter.capabilities
    assert not {"class_token", "sizes"} & adapter.capabilities
    assert adapter.pixel_statistics() == HALF_STATISTICS


def test_tiles_and_pictures_are_those_that_the_prompt_names(family: TinyFamily) -> None:
    model = tiny(family.id)
    for inputs in (family.inputs(RAGGED), family.inputs(RAGGED, padding="right"), family.inputs([[SQUARE]])):
        assert places(model, inputs, "slot", "image", "tile", "role", "row", "column") == expected(family, inputs)
    tiles = [[tile for _, _, tile, *_ in row[::TILE]] for row in expected(family, family.inputs(RAGGED))]
    assert tiles == [[0, 1, 2, 0, 1, 2, 3, 4], [], [0, 1, 2]]


def test_pictures_that_are_not_cut_have_no_thumbnail(family: TinyFamily) -> None:
    whole = Image.effect_noise((32, 32), 64).convert("RGB")
    processor, model = family.processor(), tiny(family.id)
    never = processor(
        text="<image> and <image>", images=[[whole, whole]], do_image_splitting=False, return_tensors="pt"
    )
    small = processor(text="<image>", images=[[whole]], size={"longest_edge": 32}, return_tensors="pt")
    for inputs, count in ((never, 2), (small, 1)):
        (shown,) = places(model, inputs, "slot", "image", "tile", "role", "row", "column")
        assert [shown] == expected(family, inputs)
        assert [t[1:4] for t in shown] == [(n // TILE, 0, PATCH) for n in range(count * TILE)]


def test_frames_of_a_clip_are_pictures() -> None:
    family, model = FAMILIES["smolvlm"], tiny("smolvlm")
    inputs = family.inputs(videos=[[(3, WIDE)], [(2, SQUARE)]])
    shown = places(model, inputs, "slot", "image", "tile", "role", "row", "column")
    assert shown == expected(family, inputs)
    assert [row[-1][1] for row in shown] == [2, 1]


def test_embeddings_tell_pictures_apart_as_ids_do(family: TinyFamily) -> None:
    model, inputs = tiny(family.id), family.inputs(RAGGED)
    embeds = {k: v for k, v in inputs.items() if k != "input_ids"}
    embeds["inputs_embeds"] = model.get_input_embeddings()(inputs["input_ids"]).detach()
    assert places(model, embeds, "slot", "image", "tile", "role") == places(
        model, inputs, "slot", "image", "tile", "role"
    )


def test_patches_behind_a_token_are_those_that_the_connector_shuffles_into_it(family: TinyFamily) -> None:
    model, inputs = tiny(family.id), family.inputs([[WIDE]])
    numbers = torch.arange(4.0 * TILE).view(1, -1, 1)
    shuffled = model.model.connector.pixel_shuffle(numbers, 2)[0].long()
    (footprints,) = find_adapter(model).footprints("image", inputs)
    assert [f.patches.tolist() for f in footprints] == [shuffled.tolist()] * 3
    assert shuffled[SIDE + 1].tolist() == [18, 19, 26, 27]  # of 8 x 8, rows 2 and 3, columns 2 and 3


def test_features_through_the_connector_are_the_embeddings(family: TinyFamily) -> None:
    model = tiny(family.id)
    clips = [family.inputs(videos=[[(3, WIDE)], [(2, SQUARE)]])] if family.takes_video else []
    for inputs in (family.inputs(RAGGED), *clips):
        projected, embeddings = seen_by(lambda v: (v.connector(v.features()), v.tokens.embeddings), model, inputs)
        torch.testing.assert_close(projected, embeddings, atol=1e-5, rtol=1e-5)


def test_pixels_are_those_of_the_tile(family: TinyFamily) -> None:
    inputs = family.inputs(RAGGED)
    shown = seen_by(lambda v: v.pixels(), tiny(family.id), inputs, scope="tile")
    assert torch.equal(shown, torch.cat([inputs["pixel_values"][0], inputs["pixel_values"][2, :3]]))


def test_attention_and_keys_are_the_means_over_a_tokens_patches(family: TinyFamily) -> None:
    inputs, seen = family.inputs([[WIDE, SQUARE]]), []
    received, keys = seen_by(
        lambda v: (v.attention_received(1)[0], v.encoder_keys(1)[0].transpose(0, 1)),
        tiny(family.id),
        inputs,
        layers=Captures(encoder=(1,)),
    )
    model = tiny(family.id, "eager")
    hook = model.model.vision_model.encoder.layers[1].self_attn.k_proj.register_forward_hook(
        lambda *a: seen.append(a[2])
    )
    with torch.no_grad():
        weights = model.model.vision_model(inputs["pixel_values"][0], output_attentions=True).attentions[1]
    hook.remove()
    expected_received = of_tokens(model, weights.mean(dim=(1, 2))[..., None])
    torch.testing.assert_close(received, expected_received[:, 0], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(keys.flatten(1), of_tokens(model, seen[0]), atol=1e-5, rtol=1e-4)


def test_only_tiles_of_zeros_are_left_out(family: TinyFamily) -> None:
    pixels = torch.zeros(2, 3, 3, 32, 32)
    pixels[0, :2] = 1.0
    pixels[1, 0, 2, 31, 31] = 1e-3
    adapter, model = find_adapter(tiny(family.id)), tiny(family.id).model
    entries = adapter.footprints("image", {"pixel_values": pixels})
    assert [len(e) for e in entries] == [2, 1]
    shown = adapter.pixels("image", {"pixel_values": pixels})
    assert torch.equal(torch.stack(shown), pixels[[0, 0, 1], [0, 1, 0]])
    assert len(model.get_image_features(pixels, return_dict=True).last_hidden_state) == 3


def test_the_first_of_smolvlms_tiles_is_encoded_where_all_are_zero() -> None:
    zeros = torch.zeros(2, 2, 3, 32, 32)
    counts = {n: [len(e) for e in find_adapter(tiny(n)).footprints("image", {"pixel_values": zeros})] for n in FAMILIES}
    assert counts == {"idefics3": [0, 0], "smolvlm": [1, 0]}
    assert len(tiny("smolvlm").model.get_image_features(zeros, return_dict=True).last_hidden_state) == 1


def test_misfits_and_odd_tiles_are_named(family: TinyFamily) -> None:
    model, inputs = tiny(family.id), family.inputs([[WIDE]])
    adapter = find_adapter(model)
    with pytest.raises(LayoutError, match=r"sample 0 has 46 image placeholders but its 3 picture\(s\) \[\(4, 4\), \(4"):
        layout_of(adapter, without_two_placeholders(inputs, model.config.image_token_id))
    with pytest.raises(UnsupportedError, match="tiles of 32 x 16 pixels: the connector of this"):
        adapter.footprints("image", {"pixel_values": torch.ones(1, 1, 3, 32, 16)})
    inputs["pixel_attention_mask"][0, 0, :, 16:] = 0
    with tessella.reduce(model, "random", keep=0.5):  # reads nothing of the encoder
        model(**inputs)
    with (
        tessella.reduce(model, "hiprune", keep=0.5),
        pytest.raises(UnsupportedError, match="pixel_attention_mask hides parts of tiles"),
    ):
        model(**inputs)


def expected(family: TinyFamily, inputs: Any) -> list[list[tuple[int, ...]]]:
    """Slot, image, tile, role, row and column of visual tokens, by the names that the processor wrote before tiles."""
    tokenizer = family.processor().tokenizer
    out = []
    for ids in inputs["input_ids"].tolist():
        words = tokenizer.convert_ids_to_tokens(ids)
        starts = [s for s in range(1, len(words)) if words[s] == "<image>" != words[s - 1]]
        mine: list[tuple[int, ...]] = []
        image = tile = 0
        for start in starts:
            assert words[start : start + TILE] == ["<image>"] * TILE
            is_whole = words[start - 1] == "<global-img>"
            assert is_whole or words[start - 1].startswith("<row_")
            role = THUMBNAIL if is_whole and tile else PATCH
            mine += [(start + n, image, tile, role, n // SIDE, n % SIDE) for n in range(TILE)]
            image, tile = (image + 1, 0) if is_whole else (image, tile + 1)
        out.append(mine)
    return out


def of_tokens(model: Any, values: Tensor) -> Tensor:
    """Values of patches `[tiles, patches, n]` as means over those that the connector shuffles together: `[T, n]`."""
    shuffled = model.model.connector.pixel_shuffle(values, 2)
    return shuffled.unflatten(2, (4, -1)).mean(dim=2).flatten(0, 1)
