"""Tiny models of every family answer, see their pictures and clips, and can be saved and loaded."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from tessella.testing.families import TinyFamily, tiny_families, tiny_family
from tessella.testing.families.clips import read_processor

FAMILIES = {**tiny_families(), "paligemma2": replace(tiny_family("paligemma"), text="gemma2")}
NOT_PIXELS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request: pytest.FixtureRequest) -> TinyFamily:
    return request.param


def cases(family: TinyFamily) -> dict[str, dict[str, Any]]:
    """Arguments of `inputs`, by what they show."""
    first, last = family.sizes[0], family.sizes[-1]
    found = {"one": {}, "two": {"images": [[first, last]]}, "batch": {"images": [[first], [last]], "padding": "left"}}
    return {**found, "clip": {"videos": [[(4, first)]]}} if family.takes_video else found


def test_greedy_tokens_with_a_cache_are_those_without(family: TinyFamily) -> None:
    model = family.model()
    for name, case in cases(family).items():
        inputs = family.inputs(**case)
        prompt = inputs["input_ids"].shape[1]
        answer = model.generate(**inputs, max_new_tokens=3, do_sample=False)[:, prompt:]
        assert answer.shape == (len(inputs["input_ids"]), 3), name
        assert answer.min() > max(family.processor().tokenizer.all_special_ids), name
        again = model.generate(**inputs, max_new_tokens=3, do_sample=False, use_cache=False)[:, prompt:]
        assert answer.tolist() == again.tolist(), name


def test_pixels_change_the_logits_of_the_last_token(family: TinyFamily) -> None:
    model = family.model()
    for name, case in cases(family).items():
        inputs = family.inputs(**case)
        other = {k: -v if k.startswith("pixel_values") else v for k, v in inputs.items()}
        change = (last_logits(model, inputs) - last_logits(model, other)).abs().amax(dim=-1)
        assert change.min() > 0.1, name


def test_there_are_as_many_placeholders_as_features(family: TinyFamily) -> None:
    model = family.model()
    config = model.config
    for name, case in cases(family).items():
        inputs = family.inputs(**case)
        placeholders = {config.image_token_id, getattr(config, "video_token_id", config.image_token_id)}
        count = torch.isin(inputs["input_ids"], torch.tensor(sorted(placeholders))).sum().item()
        assert count == num_features(model, inputs), name


def test_rows_of_a_batch_are_those_made_alone(family: TinyFamily) -> None:
    model = family.model()
    first, last = family.sizes[0], family.sizes[-1]
    for padding in ("left", "right"):
        both = family.inputs([[first], [last]], padding=padding)
        logits = model(**both).logits
        for row, size in enumerate((first, last)):
            alone = family.inputs([[size]], first_row=row)
            here = both["attention_mask"][row].bool()
            assert both["input_ids"][row][here].tolist() == alone["input_ids"][0].tolist()
            torch.testing.assert_close(logits[row][here][-1:], model(**alone).logits[0, -1:], rtol=1e-4, atol=1e-4)


def test_the_seed_decides_inputs_and_weights(family: TinyFamily) -> None:
    inputs, again, other = family.inputs(seed=3), family.inputs(seed=3), family.inputs(seed=4)
    assert all(torch.equal(inputs[name], again[name]) for name in inputs)
    assert not torch.equal(inputs["input_ids"], other["input_ids"])
    state = torch.random.get_rng_state()
    weights, same, others = (last_logits(family.model(seed=seed), inputs) for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(weights, same)
    assert not torch.equal(weights, others)


def test_a_saved_folder_loads_again(family: TinyFamily, tmp_path: Path) -> None:
    folder = family.save(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True).eval()
    inputs = family.inputs()
    model = deepcopy(model)  # into aligned memory: as they lie in the file, weights give sums that differ by 1e-7
    assert torch.equal(last_logits(model, inputs), last_logits(family.model(), inputs))
    auto = not family.takes_video or find_spec("torchvision")
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True) if auto else read_processor(folder)
    assert type(processor).__name__ == type(family.processor()).__name__
    assert processor.chat_template == family.processor().chat_template


def last_logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    return model(**inputs, logits_to_keep=1).logits[:, -1]


def num_features(model: Any, inputs: dict[str, Tensor]) -> int:
    """Visual tokens that the model makes of the pixels."""
    pixels = {k: v for k, v in inputs.items() if k not in NOT_PIXELS}
    clips = any(k.startswith("pixel_values_videos") for k in pixels)
    encode = model.model.get_video_features if clips else model.model.get_image_features
    features = encode(**pixels).pooler_output
    features = features if isinstance(features, Tensor) else torch.cat(list(features))
    return features.numel() // model.config.get_text_config().hidden_size
