"""Tiny models of every family answer, see their pictures and clips, and can be saved and loaded."""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
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
    for name, case in cases(family).items():
        assert num_placeholders(family, **case) == num_features(model, family.inputs(**case)), name


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


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in PaliGemma's processor
def test_a_saved_folder_loads_again(family: TinyFamily, tmp_path: Path) -> None:
    folder = family.save(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(folder, local_files_only=True, attn_implementation="eager")
    model = deepcopy(loaded)  # into aligned memory: where the file has them, weights give sums that differ by 1e-7
    inputs = family.inputs()
    assert torch.equal(last_logits(model, inputs), last_logits(family.model(attention="eager"), inputs))
    auto = not family.takes_video or find_spec("torchvision")
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True) if auto else read_processor(folder)
    assert type(processor).__name__ == type(family.processor()).__name__
    if not auto:
        assert processor.video_processor.settings == family.processor().video_processor.settings
    words = [{"type": "text", "text": "what color is the star?"}]
    chat = [{"role": "user", "content": [{"type": "image"}, *words]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == f"user : {family.image_text} what color is the star? assistant :"
    picture = Image.effect_noise(family.sizes[0], 64).convert("RGB")
    read, made = (p(text=[text], images=[[picture]], return_tensors="pt") for p in (processor, family.processor()))
    assert {k: v.tolist() for k, v in read.items()} == {k: v.tolist() for k, v in made.items()}


def test_attention_is_far_from_uniform(family: TinyFamily) -> None:
    inputs = family.inputs()
    for rows in family.model(attention="eager")(**inputs, output_attentions=True).attentions:
        assert rows[0, :, -1].amax(dim=-1).mean() > 3 / rows.shape[-1]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("llava", [16, 16]),
        ("llava_next", [16 + 8 * (8 + 1), 16 + 4 * (10 + 1), 16 + 12 * (4 + 1), 16 + 6 * (8 + 1)]),
        ("llava_next_video", [16 + 8 * (8 + 1), 16 + 4 * (10 + 1), 16 + 12 * (4 + 1), 16 + 6 * (8 + 1)]),
        ("llava_onevision", [25 + 10 * (10 + 1), 25 + 3 * (15 + 1), 25 + 10 * (5 + 1), 25 + 10 * (10 + 1)]),
        ("gemma3", [16, 16]),
        ("paligemma", [16, 16]),
    ],
)
def test_a_picture_has_the_tokens_that_its_size_gives(name: str, counts: list[int]) -> None:
    """The thumbnail, then rows of tiles without their padding, each with a newline; 3 x 3 tiles shrunk to 2 x 2."""
    family = tiny_family(name)
    assert [num_placeholders(family, images=[[size]]) for size in family.sizes] == counts


def test_several_pictures_of_a_row_are_not_tiled_by_llava_onevision() -> None:
    family = tiny_family("llava_onevision")
    assert num_placeholders(family, images=[[family.sizes[0], family.sizes[3]]]) == 2 * (25 + 1)


@pytest.mark.parametrize(("name", "count"), [("llava_next_video", 3 * 4), ("llava_onevision", 3 * 9 + 1)])
def test_a_clip_has_the_tokens_of_its_frames(name: str, count: int) -> None:
    assert num_placeholders(tiny_family(name), videos=[[(3, (60, 40))]]) == count


@pytest.mark.parametrize("name", ["gemma3", "paligemma2"])
def test_sliding_windows_are_shorter_than_the_prompt(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen at a decode step: while the prompt is read, PaliGemma's tokens see all of it through any window."""
    family = FAMILIES[name]
    short = decode_logits(family)
    monkeypatch.setattr(sys.modules[type(family).__module__], "WINDOW", 1000)
    assert (short - decode_logits(family)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("name", "seen"), [("llava", False), ("gemma3", True), ("paligemma", True), ("paligemma2", True)]
)
def test_the_first_token_of_a_picture_sees_the_last_where_masks_say_so(name: str, seen: bool) -> None:
    family = FAMILIES[name]
    model, inputs = family.model(), family.inputs()
    picture = (inputs["input_ids"][0] == model.config.image_token_id).nonzero()[:, 0]

    def first_logits(last: float) -> Tensor:
        """Logits at the first token of the picture when the embedding of its last one is scaled."""
        scale = torch.ones(inputs["input_ids"].shape[1], 1)
        scale[picture[-1]] = last
        hook = model.model.language_model.register_forward_pre_hook(
            lambda module, args, kwargs: (args, {**kwargs, "inputs_embeds": kwargs["inputs_embeds"] * scale}),
            with_kwargs=True,
        )
        logits = model(**inputs).logits[0, picture[0]]
        hook.remove()
        return logits

    assert bool((first_logits(1.0) - first_logits(0.0)).abs().max() > 1e-3) == seen


def test_a_family_without_clips_refuses_them() -> None:
    with pytest.raises(ValueError, match=r"gemma3 takes no clips"):
        tiny_family("gemma3").inputs(videos=[[(2, (56, 56))]])


def test_an_unknown_family_is_refused_with_those_there_are() -> None:
    with pytest.raises(KeyError, match=r"no tiny family 'lava'; there are: .*llava, "):
        tiny_family("lava")


def test_a_family_that_transformers_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(tiny_family("gemma3")), "architecture", "Gemma99ForConditionalGeneration")
    assert set(tiny_families()) == set(FAMILIES) - {"gemma3", "paligemma2"}


def last_logits(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    return model(**inputs, logits_to_keep=1).logits[:, -1]


def decode_logits(family: TinyFamily) -> Tensor:
    """Logits behind the first token that the model wrote."""
    inputs, settings = family.inputs(), {"output_logits": True, "return_dict_in_generate": True}
    return family.model().generate(**inputs, max_new_tokens=2, do_sample=False, **settings).logits[1]


def num_placeholders(family: TinyFamily, **case: Any) -> int:
    """Tokens of `family.inputs(**case)` that stand for visual ones."""
    config = family.config()
    places = {config.image_token_id, getattr(config, "video_token_id", config.image_token_id)}
    return int(torch.isin(family.inputs(**case)["input_ids"], torch.tensor(sorted(places))).sum())


def num_features(model: Any, inputs: dict[str, Tensor]) -> int:
    """Visual tokens that the model makes of the pixels."""
    pixels = {k: v for k, v in inputs.items() if k not in NOT_PIXELS}
    clips = any(k.startswith("pixel_values_videos") for k in pixels)
    encode = model.model.get_video_features if clips else model.model.get_image_features
    features = encode(**pixels).pooler_output
    features = features if isinstance(features, Tensor) else torch.cat(list(features))
    return features.numel() // model.config.get_text_config().hidden_size
