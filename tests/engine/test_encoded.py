"""Encoded pictures, taken out of one pass and put together for other prompts, are as if encoded there."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import tessella
from tessella.core.pipeline import parse
from tessella.engine.encoded import Encoded, num_bytes, put_together, split
from tessella.engine.encoder import encode_once
from tessella.models.adapter import find_adapter
from tessella.testing.families import tiny_family
from tessella.testing.family_cases import supported_families, tiny_model

PIPELINES = ("hiprune:0.5", "divprune:0.5", "fastv@2:0.5", "none")


def generated(model: Any, inputs: dict[str, Any], pipeline: str) -> torch.Tensor:
    with tessella.reduce(model, pipeline), torch.inference_mode():
        out = model.generate(
            **inputs, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    return torch.stack(out.logits)


def encoded_alone(name: str, pipelines: list[str]) -> tuple[list[dict[str, Any]], list[Encoded]]:
    """Inputs of two prompts with a picture each, and their pictures out of one pass over both."""
    family, model = tiny_family(name), tiny_model(tiny_family(name))
    size = family.sizes[0]
    both = family.inputs([(size,), (size,)], text_length=4)
    output = encode_once(model, both, pipelines)["image"]
    pictures = split(output, 2)
    if pictures is None:
        assert len(output.pooler_output) > 2
        pytest.skip(f"in this transformers an entry of {name}'s output is a tile, so that pictures are not told apart")
    return [family.inputs([(size,)], text_length=4, first_row=n) for n in (0, 1)], pictures


@pytest.mark.parametrize("name", sorted(supported_families()))
def test_a_picture_of_one_pass_serves_a_prompt_of_its_own(name: str) -> None:
    model = tiny_model(tiny_family(name))
    carried = [p for p in PIPELINES if tessella.can_apply(model, p)]
    prompts, pictures = encoded_alone(name, carried)
    pixels = find_adapter(model).modalities["image"].pixels
    for pipeline in carried:
        for inputs, picture in zip(prompts, pictures, strict=True):
            rest = {n: v for n, v in inputs.items() if n != pixels}
            given = generated(model, {**rest, "mm_encoder_outputs": {"image": put_together([picture])}}, pipeline)
            torch.testing.assert_close(given, generated(model, inputs, pipeline), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llava", "qwen3_vl"])
def test_pictures_of_two_passes_make_one_batch_in_any_order(name: str) -> None:
    family, model = tiny_family(name), tiny_model(tiny_family(name))
    size = family.sizes[0]
    first = split(encode_once(model, family.inputs([(size,)], first_row=0), PIPELINES)["image"], 1)
    second = split(encode_once(model, family.inputs([(size,)], first_row=1), PIPELINES)["image"], 1)
    assert first is not None
    assert second is not None
    both = family.inputs([(size,), (size,)])
    rest = {n: v for n, v in both.items() if n != find_adapter(model).modalities["image"].pixels}
    for pipeline in PIPELINES:
        given = generated(model, {**rest, "mm_encoder_outputs": {"image": put_together([*first, *second])}}, pipeline)
        torch.testing.assert_close(given, generated(model, both, pipeline), rtol=1e-4, atol=1e-4)
    swapped = generated(model, {**rest, "mm_encoder_outputs": {"image": put_together([*second, *first])}}, "none")
    assert not torch.allclose(swapped, generated(model, both, "none"), atol=1e-2)


def test_a_picture_serves_those_pipelines_whose_captures_it_has() -> None:
    model = tiny_model(tiny_family("llava"))
    _, (bare, _) = encoded_alone("llava", ["divprune:0.5"])
    _, (full, _) = encoded_alone("llava", ["hiprune:0.5"])
    assert bare.serves(model, parse("divprune:0.25"))
    assert not bare.serves(model, parse("hiprune:0.5"))
    assert full.serves(model, parse("hiprune:0.25"))


def test_bytes_count_what_is_held_once() -> None:
    _, pictures = encoded_alone("llava", ["divprune:0.5"])
    encoding = pictures[0].encoding
    features = sum(p.features.numel() * 4 for p in pictures)
    pixels = encoding.arguments["pixel_values"].numel() * 4
    assert encoding.features is not None
    least = features + pixels
    assert least <= num_bytes(encoding, pictures) <= least + 2 * encoding.features.untyped_storage().nbytes()
    _, more = encoded_alone("llava", ["hiprune:0.5"])
    assert num_bytes(more[0].encoding, more) > num_bytes(encoding, pictures)
