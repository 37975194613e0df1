"""Families that cut pictures into tiles, or take clips as stacks of frames, against the library's own packing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from library_packing import Entry, entries_of, places_of, tower_pixels
from torch import Tensor

from spying import seen_by
from tessella.core.view import Captures
from tessella.models.adapter import find_adapter
from tessella.models.footprint import Footprint, shares_of
from tessella.models.placing import layout_of
from tessella.testing.families import tiny_families, tiny_family

FAMILIES = [f for f in ("llava_next", "llava_next_video", "llava_onevision", "internvl") if f in tiny_families()]
MOSAICS = [f for f in FAMILIES if f != "internvl"]  # an entry of the others is a whole picture or clip
WITH_CLIPS = [f for f in FAMILIES if tiny_family(f).takes_video]
LAYER = 1


@lru_cache
def model_of(family: str, attention: str = "sdpa") -> Any:
    return tiny_family(family).model(attention=attention)


def pictures_of(family: str) -> dict[str, Tensor]:
    """Rows with one picture of every size, and one with two."""
    sizes = tiny_family(family).sizes
    return tiny_family(family).inputs([*([size] for size in sizes), [sizes[1], sizes[0]]])


def clips_of(family: str) -> dict[str, Tensor]:
    """A row with a clip in front of a picture, one with two clips, one with a picture and one with nothing."""
    tiny = tiny_family(family)
    rng = torch.Generator().manual_seed(0)
    image, video = tiny.image_text, tiny.video_text

    def noise(*shape: int) -> Any:
        return torch.randint(0, 256, (*shape, 3), generator=rng, dtype=torch.uint8).numpy()

    wide, square = tiny.sizes[1][::-1], tiny.sizes[0][::-1]
    text = [f"a {video} red {image} dog", f"{video} {video} the man", f"sun {image} moon", "no picture here"]
    return tiny.encode(text, [[noise(*wide)], [], [noise(*square)], []], [[noise(3, 40, 40)], [noise(3, 30, 50)] * 2])


CASES = [(f, pictures_of) for f in FAMILIES] + [(f, clips_of) for f in WITH_CLIPS]


def name_of(value: Any) -> str:
    return getattr(value, "__name__", value)


each_case = pytest.mark.parametrize(("family", "inputs_of"), CASES, ids=name_of)


def rows_of(family: str, inputs: dict[str, Tensor]) -> list[list[Entry]]:
    model = model_of(family)
    return entries_of(model, inputs, find_adapter(model).info.has_class_token)


@pytest.mark.parametrize(("family", "inputs_of"), [c for c in CASES if c[0] in MOSAICS], ids=name_of)
def test_layout_is_where_the_library_puts_patches(family: str, inputs_of: Any) -> None:
    model, inputs = model_of(family), inputs_of(family)
    layout = layout_of(find_adapter(model), inputs)
    for row, entries in enumerate(rows_of(family, inputs)):
        expected = [
            (slot, image, *place)
            for image, entry in enumerate(entries)
            for slot, place in zip(entry.slots, places_of(model, inputs, entry), strict=True)
        ]
        columns = (layout.slot, layout.image, layout.tile, layout.frame, layout.row, layout.column, layout.role)
        told = torch.stack([c[row, : layout.num_tokens[row]] for c in columns], dim=1)
        assert [tuple(t) for t in told.tolist()] == expected


@each_case
def test_footprints_tell_of_which_patches_a_token_is_made(family: str, inputs_of: Any) -> None:
    inputs = inputs_of(family)
    adapter = find_adapter(model_of(family))
    entries = [e for row in rows_of(family, inputs) for e in row]
    for modality in {e.modality for e in entries}:
        footprints = [f for entry in adapter.footprints(modality, inputs) for f in entry]
        mine = [e for e in sorted(entries, key=lambda e: e.number) if e.modality == modality]
        first = 0
        for footprint, entry in zip(footprints, mine, strict=True):
            items = entry.weights[:, first : first + footprint.num_items].flatten(1)
            torch.testing.assert_close(dense(footprint), items, atol=1e-6, rtol=1e-6)
            assert items.sum() == pytest.approx(float(entry.weights.sum()))
            first += footprint.num_items


def dense(footprint: Footprint) -> Tensor:
    """The weight of each patch in each token."""
    out = torch.zeros(footprint.num_tokens, footprint.num_patches)
    return out.scatter_add_(1, footprint.patches.clamp(min=0), shares_of(footprint).float())


@each_case
def test_values_of_the_encoder_reach_the_tokens_made_of_their_patches(family: str, inputs_of: Any) -> None:
    """Attention that patches receive, keys, hidden states and attention of the class token."""
    inputs = inputs_of(family)
    has_class = find_adapter(model_of(family)).info.has_class_token

    def look(view: Any) -> list[Tensor]:
        shown = [view.attention_received(LAYER), view.encoder_hidden(LAYER), view.encoder_keys(LAYER).transpose(1, 2)]
        return shown + ([view.class_attention(LAYER).transpose(1, 2)] if has_class else [])

    captures = Captures(encoder=(LAYER,), encoder_hidden=(LAYER,))
    shown = seen_by(look, model_of(family), inputs, layers=captures)
    by_hand = {m: slow_values(family, tower_pixels(model_of(family), m, inputs)) for m in modalities(inputs)}
    for row, entries in enumerate(r for r in rows_of(family, inputs) if r):
        for number, values in enumerate(shown):
            expected = torch.cat([e.mix(by_hand[e.modality][number]) for e in entries])
            torch.testing.assert_close(values[row, : len(expected)], expected, atol=1e-5, rtol=1e-4)


def modalities(inputs: dict[str, Tensor]) -> list[str]:
    return [m for m, pixels in (("image", "pixel_values"), ("video", "pixel_values_videos")) if pixels in inputs]


def slow_values(family: str, pixels: Tensor) -> list[Tensor]:
    """Attention received `[items, patches]`, hidden states, keys `[.., H, D]` and class attention `[.., H]`."""
    model = model_of(family, "eager")
    tower, adapter, keys = model.model.vision_tower, find_adapter(model), []
    hook = adapter.encoder_attention(LAYER).k_proj.register_forward_hook(lambda *a: keys.append(a[2]))
    with torch.no_grad():
        out = tower(pixels, output_attentions=True, output_hidden_states=True)
    hook.remove()
    skipped = int(adapter.info.has_class_token)
    attention = out.attentions[LAYER]
    received = attention.mean(dim=(1, 2))[:, skipped:]
    key = keys[0][:, skipped:].unflatten(2, (attention.shape[1], -1))
    return [received, out.hidden_states[LAYER + 1][:, skipped:], key, attention[:, :, 0, skipped:].transpose(1, 2)]


@pytest.mark.parametrize(("family", "inputs_of"), [c for c in CASES if c[0] in MOSAICS], ids=name_of)
def test_features_are_mixed_of_those_of_the_patches(family: str, inputs_of: Any) -> None:
    inputs, model = inputs_of(family), model_of(family)
    info = find_adapter(model).info
    features = seen_by(lambda v: v.features(), model, inputs)
    by_hand = {}
    for modality in modalities(inputs):
        with torch.no_grad():
            out = model.model.vision_tower(tower_pixels(model, modality, inputs), output_hidden_states=True)
        by_hand[modality] = out.hidden_states[info.feature_layer + 1][:, int(info.has_class_token) :]
    for row, entries in enumerate(r for r in rows_of(family, inputs) if r):
        expected = torch.cat([e.mix(by_hand[e.modality]) for e in entries])
        torch.testing.assert_close(features[row, : len(expected)], expected, atol=1e-5, rtol=1e-5)


@each_case
def test_the_connector_makes_the_models_embeddings_of_the_features(family: str, inputs_of: Any) -> None:
    """Equal for each token whose patches are not interpolated behind the connector; newlines have no features."""
    inputs = inputs_of(family)
    projected, embedded, features = seen_by(
        lambda v: (v.connector(v.features()), v.tokens.embeddings, v.features()), model_of(family), inputs
    )
    checked = 0
    for row, entries in enumerate(r for r in rows_of(family, inputs) if r):
        newline = torch.cat([e.is_newline for e in entries])
        interpolated = torch.cat([((e.weights > 0).sum(dim=(1, 2, 3)) > 1) for e in entries])
        exact = ~newline & ~(interpolated if family == "llava_onevision" else torch.zeros_like(newline))
        assert features[row, : len(newline)][newline].abs().sum() == 0
        both = projected[row, : len(newline)][exact], embedded[row, : len(newline)][exact]
        torch.testing.assert_close(*both, atol=1e-5, rtol=1e-5)
        checked += int(exact.sum())
    assert checked > 30


@each_case
def test_pixels_and_class_tokens_are_those_of_the_tile_or_frame(family: str, inputs_of: Any) -> None:
    inputs = inputs_of(family)
    has_class = find_adapter(model_of(family)).info.has_class_token
    pixels, classes = seen_by(
        lambda v: (v.pixels(), v.class_features() if has_class else None),
        model_of(family),
        inputs,
        layers=Captures(class_features=has_class),
        scope="tile",
    )
    expected = []
    for entry in (e for row in rows_of(family, inputs) for e in row):
        given = tower_pixels(model_of(family), entry.modality, inputs)
        present = entry.weights.sum(dim=(0, 2, 3)).nonzero().reshape(-1)  # a tile may be all padding
        expected.append(given[present])
    torch.testing.assert_close(pixels, torch.cat(expected))
    if has_class:
        layer = find_adapter(model_of(family)).info.feature_layer
        with torch.no_grad():
            hidden = model_of(family).model.vision_tower(torch.cat(expected), output_hidden_states=True).hidden_states
        torch.testing.assert_close(classes, hidden[layer + 1][:, 0], atol=1e-5, rtol=1e-5)
