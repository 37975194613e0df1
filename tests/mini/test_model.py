"""The saved folder: loads unchanged, small, and its processor writes the prompts that were trained."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPImageProcessorPil,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from tessella import mini
from tessella.mini.evaluate import answer, build_prompt, measure
from tessella.mini.model import NUM_VISUAL, build_model, build_processor, save
from tessella.mini.questions import ANSWERS, KINDS, list_texts, sample


@pytest.fixture(scope="module")
def processor() -> LlavaProcessor:
    return AutoProcessor.from_pretrained(mini.path())


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    return AutoModelForImageTextToText.from_pretrained(mini.path()).eval()


def test_import_is_cheap() -> None:
    code = "import sys, tessella.mini as m; print(m.path().name, 'torch' in sys.modules, 'transformers' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["weights", "False", "False"]


def test_folder_is_small_and_loads(processor: LlavaProcessor, model: LlavaForConditionalGeneration) -> None:
    assert sum(file.stat().st_size for file in mini.path().iterdir()) < 10_000_000
    assert type(model) is LlavaForConditionalGeneration
    assert type(processor) is LlavaProcessor
    assert isinstance(processor.image_processor, CLIPImageProcessorPil)
    assert model.dtype == torch.bfloat16
    assert 2_900_000 < sum(weight.numel() for weight in model.parameters()) < 3_200_000
    assert model.lm_head.weight is model.model.language_model.embed_tokens.weight
    config = model.config
    assert (config.vision_feature_layer, config.vision_feature_select_strategy) == (-2, "default")
    assert config.text_config.max_position_embeddings >= 1024
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id


def test_prompt_is_short_and_has_a_placeholder_for_each_patch(processor: LlavaProcessor) -> None:
    item = sample("place", 0)
    content = [{"type": "image", "image": item.image}, {"type": "text", "text": item.question}]
    chat = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    assert text == f"<s><user><image>{item.question}<assistant>"
    assert text == build_prompt(processor, item.question)
    inputs = processor.apply_chat_template(
        chat, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = inputs["input_ids"][0]
    assert inputs["pixel_values"].shape == (1, 3, 112, 112)
    assert int((ids == processor.image_token_id).sum()) == NUM_VISUAL == 196
    assert len(ids) - NUM_VISUAL <= 3 + 11
    assert processor.tokenizer.decode(ids).replace("<image>", "") == f"<s><user>{item.question}<assistant>"


def test_second_turn_follows_the_first(processor: LlavaProcessor) -> None:
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what word is written?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "KZQ"}]},
        {"role": "user", "content": [{"type": "text", "text": "what color is the word?"}]},
    ]
    text = processor.apply_chat_template(turns, add_generation_prompt=True)
    expected = "<s><user><image>what word is written?<assistant>KZQ</s><user>what color is the word?<assistant>"
    assert text == expected


def test_tokenizer_keeps_words_whole_and_spells_capitals_and_digits(processor: LlavaProcessor) -> None:
    tokenizer = processor.tokenizer
    assert tokenizer.tokenize("KZQW") == ["K", "Z", "Q", "W"]
    assert tokenizer.tokenize("where is the red star?") == ["where", "Ġis", "Ġthe", "Ġred", "Ġstar", "?"]
    assert tokenizer.tokenize("Where")[0] == "Where"
    assert tokenizer.tokenize("2026") == ["2", "0", "2", "6"]
    for text in (*list_texts(), "Ünïcode 漢字 🙂 and\ttabs  too"):
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    assert max(len(tokenizer.tokenize(text)) for text in list_texts()) == 11


def test_pictures_of_any_size_become_112_pixels(processor: LlavaProcessor) -> None:
    image = sample("colour", 0).image.resize((300, 47))
    inputs = processor(images=[image, image.convert("L")], text=["<image>a", "<image>b"], return_tensors="pt")
    assert inputs["pixel_values"].shape == (2, 3, 112, 112)


def test_saving_writes_the_same_model_again(tmp_path: Path) -> None:
    built = build_processor()
    model = build_model(built, seed=1)
    save(model, built, tmp_path / "a")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "a")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.to(torch.bfloat16)), name
    again = AutoProcessor.from_pretrained(tmp_path / "a")
    assert again.tokenizer.get_vocab() == built.tokenizer.get_vocab()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a"]
    assert not list((tmp_path / "a").glob("*.part"))


def test_same_seed_builds_the_same_weights() -> None:
    built = build_processor()
    first, again, other = (build_model(built, seed).state_dict() for seed in (5, 5, 6))
    name = "model.language_model.layers.3.mlp.up_proj.weight"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])


def test_a_batch_gives_the_answers_of_its_samples(
    processor: LlavaProcessor, model: LlavaForConditionalGeneration
) -> None:
    model = AutoModelForImageTextToText.from_pretrained(mini.path(), dtype=torch.float32).eval()
    samples = [sample(kind, 7) for kind in KINDS]
    assert answer(model, processor, samples) == [answer(model, processor, [item])[0] for item in samples]


FLOORS = {  # a few points below what 2,000 questions a type give
    "colour": 0.95,
    "shape": 0.95,
    "place": 0.95,
    "relation": 0.95,
    "count": 0.9,
    "existence": 0.95,
    "digit": 0.9,
    "reading": 0.85,
}


def test_accuracy_of_the_shipped_weights(processor: LlavaProcessor, model: LlavaForConditionalGeneration) -> None:
    table = measure(model, processor, per_type=24)
    assert set(FLOORS) == set(table)
    for kind, floor in FLOORS.items():
        assert table[kind]["accuracy"] >= floor, (kind, table[kind])


def test_without_the_picture_the_model_knows_nothing(
    processor: LlavaProcessor, model: LlavaForConditionalGeneration
) -> None:
    table = measure(model, processor, per_type=40, blind=True)
    for kind, row in table.items():
        assert row["accuracy"] <= row["constant"] + 0.15, (kind, row)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if ANSWERS[kind]])
def test_without_the_picture_answers_stay_within_the_type(
    kind: str, processor: LlavaProcessor, model: LlavaForConditionalGeneration
) -> None:
    asked = [sample(kind, seed) for seed in range(40)]
    assert set(answer(model, processor, asked, blind=True)) <= set(ANSWERS[kind])
