"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL and GLM-4V against positions, permutations and attention of transformers itself."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pytest
import torch
from laid_out import places, without_two_placeholders
from torch import Tensor, nn

import tessella
from spying import seen_by
from tessella.core.errors import LayoutError, UnsupportedError
from tessella.core.view import Captures
from tessella.models.adapter import find_adapter
from tessella.models.placing import layout_of
from tessella.testing.families import TinyFamily, tiny_families
from tessella.testing.families.qwen_like import MEAN, STD

FAMILIES = {n: f for n, f in tiny_families().items() if n in ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")}
GRID = {"image": "image_grid_thw", "video": "video_grid_thw"}
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
TALL, SQUARE, WIDE = (24, 72), (40, 40), (72, 48)  # none of which is scaled: 9 x 3, 5 x 5 and 6 x 9 tokens
PATCH, MERGE = 4, 2


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request: pytest.FixtureRequest) -> TinyFamily:
    return request.param


@cache
def tiny(name: str) -> Any:
    return FAMILIES[name].model()


def cases(family: TinyFamily) -> Iterator[dict[str, Tensor]]:
    """Prompts with pictures and clips of several sizes, in rows of several lengths."""
    yield family.inputs([[TALL, SQUARE], [], [WIDE]])
    yield family.inputs(videos=[[(3, SQUARE), (2, TALL)], [(5, TALL)]], padding="right")
    if family.id != "glm4v":  # takes one or the other
        yield family.inputs([[TALL], [SQUARE, WIDE]], videos=[[(4, WIDE)], []])


def test_info_and_capabilities(family: TinyFamily) -> None:
    adapter = find_adapter(family.model(num_layers=3))
    info = adapter.info
    assert (info.family, info.num_layers, info.num_encoder_layers, info.feature_layer) == (family.id, 3, 4, 3)
    assert (info.has_class_token, info.merge, info.multi_axis_positions) == (False, 2, True)
    assert {"pixels", "grid", "attention_received"} <= adapter.capabilities
    assert "class_token" not in adapter.capabilities
    assert adapter.deepstack == ("_deepstack_process" if family.id == "qwen3_vl" else None)
    assert all(adapter.mask_rule(n) is None for n in range(3))


def test_the_layout_is_that_of_the_models_own_positions(family: TinyFamily) -> None:
    model = tiny(family.id)
    for inputs in cases(family):
        shown = places(model, inputs, "slot", "image", "frame", "row", "column", "tile", "role")
        assert shown == expected_places(model, inputs)


@pytest.mark.parametrize("modality", ["image", "video"])
def test_patches_behind_a_token_are_those_of_its_square(family: TinyFamily, modality: str) -> None:
    model, inputs = tiny(family.id), numbered_inputs(family, modality)
    shown, first = [], 0
    for (footprint,) in find_adapter(model).footprints(modality, inputs):
        shown += (footprint.patches + first).tolist()
        first += footprint.num_patches
    assert shown == expected_patches(family, modality)


def test_features_through_the_connector_are_the_embeddings(family: TinyFamily) -> None:
    model = tiny(family.id)
    for inputs in cases(family):
        projected, embeddings = seen_by(lambda v: (v.connector(v.features()), v.tokens.embeddings), model, inputs)
        torch.testing.assert_close(projected, embeddings, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("modality", ["image", "video"])
@pytest.mark.parametrize("layer", [1, 2])
def test_attention_and_keys_are_those_of_the_encoder(family: TinyFamily, modality: str, layer: int) -> None:
    """In Qwen2.5-VL layer 2 attends within windows: what a patch receives there is shared among all of its frame."""
    model, inputs = tiny(family.id), noise_inputs(family, modality)
    received, keys = encoder_by_hand(model, modality, inputs, layer)
    patches = torch.tensor(expected_patches(family, modality))
    shown, shown_keys = seen_by(
        lambda v: (v.attention_received(layer)[0], v.encoder_keys(layer)[0].transpose(0, 1)),
        model,
        inputs,
        layers=Captures(encoder=(layer,)),
    )
    torch.testing.assert_close(shown, received[patches].mean(dim=1), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(shown_keys, keys[patches].mean(dim=1), atol=1e-5, rtol=1e-4)
    assert shown.std() / shown.mean() > 0.05


def test_hidden_states_are_those_of_the_encoder(family: TinyFamily) -> None:
    model, inputs, seen = tiny(family.id), noise_inputs(family, "image"), []
    shown = seen_by(lambda v: v.encoder_hidden(1)[0], model, inputs, layers=Captures(encoder_hidden=(1,)))
    hook = model.model.visual.blocks[1].register_forward_hook(lambda *a: seen.append(a[2]))
    encode(model, "image", inputs)
    hook.remove()
    patches = torch.tensor(expected_patches(family, "image"))
    torch.testing.assert_close(shown, seen[0][patches].mean(dim=1), atol=1e-5, rtol=1e-4)


def test_pixels_are_the_pictures_and_the_first_frames(family: TinyFamily) -> None:
    model, rng = tiny(family.id), np.random.default_rng(0)
    picture, clip = (rng.integers(0, 256, (*n, 48, 72, 3), dtype=np.uint8) for n in ((), (4,)))
    for text, media, shown in (
        (family.image_text, {"pictures": [[picture]]}, picture[None]),
        (family.video_text, {"pictures": [[]], "clips": [[clip]]}, clip[::2]),
    ):
        inputs = family.encode([f"see {text} what"], **media)
        pixels = seen_by(lambda v: v.pixels(), model, inputs, scope="frame")
        normalised = (torch.from_numpy(shown) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
        torch.testing.assert_close(pixels, normalised.permute(0, 3, 1, 2), atol=1e-4, rtol=1e-4)


def test_misfits_are_named(family: TinyFamily) -> None:
    adapter, config = find_adapter(tiny(family.id)), tiny(family.id).config
    with pytest.raises(LayoutError, match=r"sample 0 has 25 image placeholders but its 1 picture\(s\) \[\(9, 3\)\]"):
        layout_of(adapter, without_two_placeholders(family.inputs([[TALL]]), config.image_token_id))
    token = config.image_token_id if family.id == "glm4v" else config.video_token_id
    with pytest.raises(LayoutError, match=r"sample 0 has 52 video placeholders but its 1 clip\(s\) \[\(9, 3\), \(9,"):
        layout_of(adapter, without_two_placeholders(family.inputs(videos=[[(3, TALL)]]), token))
    with pytest.raises(LayoutError, match="encoded image features alone do not tell the grid"):
        adapter.footprints_of_features("image", [torch.zeros(27, 32)])


def test_prompts_go_on_alternately_as_they_do_alone(family: TinyFamily) -> None:
    """The model remembers one prompt to count positions on from; a cache remembers its own."""
    model = tiny(family.id)
    prompts = [family.inputs([[TALL]]), family.inputs([[WIDE, SQUARE]], seed=1)]
    tokens = torch.randint(10, 100, (2, 3, 1, 1))
    with torch.no_grad(), tessella.reduce(model, "random", keep=0.5):
        alone = []
        for prompt, mine in zip(prompts, tokens, strict=True):
            cache = read(model, prompt)
            alone.append([read_on(model, cache, t) for t in mine])
        caches = [read(model, p) for p in prompts]
        mixed = [[read_on(model, c, t) for c, t in zip(caches, both, strict=True)] for both in tokens.unbind(1)]
    deltas = [model.model.get_rope_index(**rope_arguments(model, p))[1] for p in prompts]
    assert deltas[0] != deltas[1]
    for n, both in enumerate(mixed):
        assert both[0].shape[1] == 1
        assert all(torch.equal(logits, one[n]) for logits, one in zip(both, alone, strict=True))


def test_positions_of_three_axes_are_not_counted_anew(family: TinyFamily) -> None:
    with pytest.raises(UnsupportedError, match=f"a {family.id} model has three positions a token"):
        find_adapter(tiny(family.id)).rotary(torch.zeros(1, 2, 32), torch.arange(2)[None], 0)


def test_clips_of_glm4v_are_told_by_the_video_token_in_embeddings() -> None:
    family, model = FAMILIES["glm4v"], tiny("glm4v")
    inputs = family.inputs(videos=[[(3, SQUARE)]])
    ids = torch.where(inputs["input_ids"] == model.config.image_token_id, model.config.video_token_id, 0)
    embeds = {k: v for k, v in inputs.items() if k != "input_ids"} | {
        "inputs_embeds": model.get_input_embeddings()(ids)
    }
    assert places(model, embeds, "slot", "frame", "row") == places(model, inputs, "slot", "frame", "row")


def test_deep_stack_features_join_the_tokens_that_are_left() -> None:
    """A cut in front of layer 1: behind it the features of the second deep-stack block join what is left."""
    family, model, seen = FAMILIES["qwen3_vl"], tiny("qwen3_vl"), []
    inputs = family.inputs([[TALL, WIDE], [SQUARE]])
    layers = model.model.language_model.layers
    hooks = [
        layers[1].register_forward_hook(lambda *a: seen.append(a[2])),
        layers[2].register_forward_pre_hook(lambda *a: seen.append(a[1][0])),
    ]
    with torch.no_grad(), tessella.reduce(model, "random@1:0.3") as run:
        model(**inputs)
    for hook in hooks:
        hook.remove()
    before, after = seen
    features = iter(encode(model, "image", inputs).deepstack_features[1])
    for row, images in enumerate(run.kept):
        kept = torch.cat([next(features)[k] for k in images])
        added = (after - before)[row]
        joined = added[added.abs().sum(dim=1) > 0]
        assert len(joined) == sum(map(len, images)) < 54
        torch.testing.assert_close(joined, kept, atol=1e-5, rtol=1e-4)


# -- built from what transformers says --------------------------------------------------------------------------------


def rope_arguments(model: Any, inputs: dict[str, Tensor]) -> dict[str, Any]:
    names = inspect.signature(model.model.get_rope_index).parameters
    return {n: v for n, v in inputs.items() if n in names}


def expected_places(model: Any, inputs: dict[str, Tensor]) -> list[list[tuple[int, ...]]]:
    """Slot, image, frame, row, column, tile and role of visual tokens, from the positions that the model gives them."""
    positions, _ = model.model.get_rope_index(**rope_arguments(model, inputs))
    frames = iter(inputs["video_grid_thw"][:, 0].tolist() if "video_grid_thw" in inputs else ())
    out = []
    for row, types in enumerate(inputs["mm_token_type_ids"].tolist()):
        mine: list[tuple[int, ...]] = []
        image, frame, left = -1, 0, 0  # `left`: frames of the current clip that are still to come
        for kind, run in groupby(range(len(types)), lambda s, types=types: types[s]):
            slots = list(run)
            if kind == 0:
                continue
            time, down, across = positions[:, row, slots]
            times = time.unique().tolist()
            if kind == 1 or left == 0:
                image, frame, left = image + 1, 0, next(frames) if kind == 2 else 1
            mine += [
                (s, image, frame + times.index(t), int(d - down.min()), int(a - across.min()), 0, 0)
                for s, t, d, a in zip(slots, time.tolist(), down, across, strict=True)
            ]
            frame, left = frame + len(times), left - len(times)
        out.append(mine)
    return out


def numbered_inputs(family: TinyFamily, modality: str) -> dict[str, Tensor]:
    """Two pictures, or a clip, whose pixels are the number of their patch, counted frame by frame in raster order."""
    if modality == "image":
        pictures = [numbered(1, size)[0] for size in (TALL, SQUARE)]
        return family.encode([f"{family.image_text} and {family.image_text}"], [pictures])
    return family.encode([family.video_text], [[]], [[numbered(2, SQUARE).repeat(2, axis=0)]])


def noise_inputs(family: TinyFamily, modality: str) -> dict[str, Tensor]:
    """The same sizes, of noise."""
    return family.inputs([[TALL, SQUARE]]) if modality == "image" else family.inputs(videos=[[(4, SQUARE)]])


def numbered(frames: int, size: tuple[int, int]) -> np.ndarray:
    rows, columns = size[1] // PATCH, size[0] // PATCH
    numbers = np.arange(frames * rows * columns, dtype=np.uint8).reshape(frames, rows, columns)
    return numbers.repeat(PATCH, axis=1).repeat(PATCH, axis=2)[..., None].repeat(3, axis=3)


@cache
def expected_patches(family: TinyFamily, modality: str) -> list[list[int]]:
    """For each token the places, in the encoder, of the patches of its square, all in raster order."""
    inputs = numbered_inputs(family, modality)
    shade = inputs[PIXELS[modality]][:, 0] * STD[0] + MEAN[0]
    numbers = (shade * 255).round().long().tolist()
    place = encoder_places(tiny(family.id), modality, inputs)
    out, first = [], 0
    for frames, rows, columns in inputs[GRID[modality]].tolist():
        count = frames * rows * columns
        of_number = {n: place[first + i] for i, n in enumerate(numbers[first : first + count])}
        assert len(of_number) == count
        first += count
        for f in range(frames):
            for r in range(0, rows, MERGE):
                for c in range(0, columns, MERGE):
                    square = [(r + y, c + x) for y in range(MERGE) for x in range(MERGE)]
                    out.append([of_number[(f * rows + y) * columns + x] for y, x in square])
    return out


class Enough(Exception):
    """Raised in front of the encoder's first block."""


def encoder_places(model: Any, modality: str, inputs: dict[str, Tensor]) -> list[int]:
    """For each row of the pixels the place in the encoder that changes with it."""
    seen: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])
        raise Enough

    hook = model.model.visual.blocks[0].register_forward_pre_hook(stop)
    pixels = inputs[PIXELS[modality]]
    noise = torch.randn(pixels.shape[1])
    for row in range(-1, len(pixels)):
        changed = pixels.clone()
        if row >= 0:
            changed[row] += noise
        with pytest.raises(Enough):
            encode(model, modality, {**inputs, PIXELS[modality]: changed})
    hook.remove()
    changes = [(hidden - seen[0]).abs().sum(dim=1).nonzero()[:, 0].tolist() for hidden in seen[1:]]
    assert all(len(c) == 1 for c in changes)
    return [c[0] for c in changes]


def encoder_by_hand(model: Any, modality: str, inputs: dict[str, Tensor], layer: int) -> tuple[Tensor, Tensor]:
    """Attention that each patch receives as the mean over heads and its frame, and its keys, in the encoder's order."""
    attention, seen = model.model.visual.blocks[layer].attn, {}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.update(kwargs, hidden=args[0])

    hook = attention.register_forward_pre_hook(keep, with_kwargs=True)
    encode(model, modality, inputs)
    hook.remove()
    cos, sin = (t[:, None] for t in seen["position_embeddings"])
    with torch.no_grad():
        query, key, _ = attention.qkv(seen["hidden"]).unflatten(1, (3, attention.num_heads, -1)).unbind(1)
    query, key = (
        t * cos + torch.cat([-t[..., t.shape[-1] // 2 :], t[..., : t.shape[-1] // 2]], -1) * sin for t in (query, key)
    )
    received = torch.zeros(len(query))
    bounds = seen["cu_seqlens"].tolist()
    for start, stop in pairwise(bounds):
        scores = torch.einsum("qhd,khd->hqk", query[start:stop], key[start:stop]) / query.shape[-1] ** 0.5
        received[start:stop] = scores.softmax(dim=2).sum(dim=1).mean(dim=0)
    sizes = [(rows * columns, frames) for frames, rows, columns in inputs[GRID[modality]].tolist()]
    of_frame = torch.cat([torch.full((size * frames,), float(size)) for size, frames in sizes])
    return received / of_frame, key


def encode(model: Any, modality: str, inputs: dict[str, Tensor]) -> Any:
    method = {"image": model.model.get_image_features, "video": model.model.get_video_features}[modality]
    with torch.no_grad():
        return method(inputs[PIXELS[modality]], inputs[GRID[modality]], return_dict=True)


def read(model: Any, inputs: dict[str, Tensor]) -> Any:
    return model(**inputs, use_cache=True).past_key_values


def read_on(model: Any, cache: Any, token: Tensor) -> Tensor:
    """Logits behind a token `[1, 1]`. Without a mask: given one, the models take positions of all that it covers."""
    return model(input_ids=token, past_key_values=cache, use_cache=True).logits
