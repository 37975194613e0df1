"""What may be done with a cache under a reduction, against an oracle of its own. See docs/compatibility.md."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from comparing import (
    KEEP,
    PLACES,
    STEPS,
    close,
    generate,
    kept_by_norm,
    oracles,
)
from plain_methods import Norm
from torch import nn
from transformers import DynamicCache

import tessella
from tessella.core.errors import UnsupportedError
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs


@pytest.mark.parametrize("at_layer, positions", PLACES)
@pytest.mark.parametrize("whole", [True, False], ids=["full ids", "new ids"])
def test_second_turn(model: Any, at_layer: int, positions: str, whole: bool) -> None:
    """generate on a used cache, given the whole conversation or only what is new with the whole mask."""
    inputs = tiny_inputs((1, 2), padding="left")
    kept = kept_by_norm(model, inputs, KEEP, at_layer)
    rows = oracles(model, inputs, kept, at_layer, positions)
    question = torch.tensor([[33, 34, 35], [41, 42, 43]])
    calls = []
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions) as run:
        cache = DynamicCache()
        first = model.generate(**inputs, past_key_values=cache, max_new_tokens=STEPS, suppress_tokens=[IMAGE_TOKEN])
        # the last token of an answer is not in the cache yet
        told = torch.cat([first, question], dim=1)
        mask = nn.functional.pad(inputs["attention_mask"], (0, told.shape[1] - inputs["input_ids"].shape[1]), value=1)
        ids = told if whole else told[:, cache.get_seq_length() :]
        second = generate(model, {"input_ids": ids, "attention_mask": mask}, past_key_values=cache)
        calls.append(run.report.prompts)
    for oracle, answer, more, got in zip(rows, first.tolist(), question.tolist(), second, strict=True):
        said = answer[inputs["input_ids"].shape[1] :]
        assert said == oracle.greedy(STEPS)
        assert got == oracle.greedy(STEPS, [*said, *more])
    assert calls == [1]


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_several_tokens_on_a_cache(model: Any, at_layer: int, positions: str) -> None:
    """forward with several new tokens, then with one."""
    inputs = tiny_inputs()
    [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, at_layer), at_layer, positions)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions):
        cache = model(**inputs).past_key_values
        three = model(input_ids=torch.tensor([[33, 34, 35]]), past_key_values=cache).logits[0]
        one = model(input_ids=torch.tensor([[36]]), past_key_values=cache).logits[0]
    expected = oracle.logits([33, 34, 35, 36])
    close(three, expected[-4:-1])
    close(one, expected[-1:])


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_mask_that_hides_the_past(model: Any, at_layer: int, positions: str) -> None:
    """A second turn may hide text and pictures of the first, kept or not."""
    inputs = tiny_inputs()
    kept = kept_by_norm(model, inputs, KEEP, at_layer)
    [oracle] = oracles(model, inputs, kept, at_layer, positions)
    plain = oracle.logits([33, 34])[-2:]
    oracle.unseen = {1, 20, oracle.visual[kept[0][0]], oracle.visual[0]}
    mask = torch.ones(1, 27).long()
    mask[0, sorted(oracle.unseen)] = 0
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions):
        cache = model(**inputs).past_key_values
        got = model(input_ids=torch.tensor([[33, 34]]), attention_mask=mask, past_key_values=cache).logits[0]
    close(got, oracle.logits([33, 34])[-2:])
    assert (got - plain).abs().max() > 0.01


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_second_turn_with_embeddings(model: Any, at_layer: int, positions: str) -> None:
    inputs = tiny_inputs()
    [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, at_layer), at_layer, positions)
    told = torch.cat([inputs["input_ids"], torch.tensor([[33, 34, 35]])], dim=1)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions):
        cache = model(**inputs).past_key_values
        embeds = model.get_input_embeddings()(told)
        given = {"inputs_embeds": embeds, "attention_mask": torch.ones_like(told), "past_key_values": cache}
        got = model.generate(**given, max_new_tokens=STEPS, suppress_tokens=[IMAGE_TOKEN])
    assert got[0].tolist() == oracle.greedy(STEPS, [33, 34, 35])


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_crop(model: Any, at_layer: int, positions: str) -> None:
    inputs = tiny_inputs((1, 2), padding="left")
    rows = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, at_layer), at_layer, positions)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions):
        cache = DynamicCache()
        model.generate(**inputs, past_key_values=cache, max_new_tokens=STEPS)
        cache.crop(-(STEPS - 1) - 2)  # the answer and two tokens of the prompt
        length = inputs["input_ids"].shape[1] - 2
        assert cache.get_seq_length() == length
        told = torch.cat([inputs["input_ids"][:, :length], torch.tensor([[33, 34], [41, 42]])], dim=1)
        again = generate(model, {**_text(inputs), "input_ids": told}, past_key_values=cache)
    for oracle, more, got in zip(rows, ([33, 34], [41, 42]), again, strict=True):
        oracle.ids = oracle.ids[:-2]
        assert got == oracle.greedy(STEPS, more)


def test_crop_into_a_picture_is_refused(model: Any) -> None:
    """Layers would lose other tokens each, because some of the last ones are gone from some layers."""
    inputs = tiny_inputs()
    with tessella.reduce(model, Norm(2), keep=KEEP):
        cache = model(**inputs).past_key_values
        with pytest.raises(UnsupportedError, match=r"cannot crop 7 tokens .* reaches visual tokens"):
            cache.crop(-7)
        lengths = [layer.keys.shape[2] for layer in cache.layers]
    assert lengths == [25, 25, 9 + KEEP, 9 + KEEP]
    assert cache.get_seq_length() == 25


@pytest.mark.parametrize("at_layer, positions", PLACES)
def test_copy_of_a_cache(model: Any, at_layer: int, positions: str) -> None:
    """A prefix is read once and continued twice; neither continuation sees the other."""
    inputs = tiny_inputs()
    [oracle] = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, at_layer), at_layer, positions)
    with tessella.reduce(model, Norm(at_layer), keep=KEEP, positions=positions) as run:
        prefix = model(**inputs).past_key_values
        for question in ([33, 34], [41]):
            cache = copy.deepcopy(prefix)
            told = torch.cat([inputs["input_ids"], torch.tensor([question])], dim=1)
            got = generate(model, {"input_ids": told, "attention_mask": torch.ones_like(told)}, past_key_values=cache)
            assert got == [oracle.greedy(STEPS, question)]
        assert prefix.get_seq_length() == inputs["input_ids"].shape[1]
        assert run.report.prompts == 1


def test_rows_of_a_cache(model: Any) -> None:
    """batch_select_indices, batch_repeat_interleave and reorder_cache take the decision along."""
    inputs = tiny_inputs((1, 2), padding="left")
    rows = oracles(model, inputs, kept_by_norm(model, inputs, KEEP, 2), 2, "compact")
    with tessella.reduce(model, Norm(2), keep=KEEP):
        cache = model(**_with_positions(inputs)).past_key_values
        cache.batch_select_indices(torch.tensor([1, 0]))
        cache.batch_repeat_interleave(2)
        cache.reorder_cache(torch.tensor([2, 0, 3, 1]))
        mask = inputs["attention_mask"][[0, 1, 0, 1]]
        mask = torch.cat([mask, torch.ones(4, 1).long()], dim=1)
        new = torch.tensor([[33], [34], [35], [36]])
        where = mask.sum(dim=1, keepdim=True) - 1
        got = model(input_ids=new, attention_mask=mask, position_ids=where, past_key_values=cache).logits[:, -1]
    for i, row in enumerate((0, 1, 0, 1)):
        close(got[i], rows[row].logits([33 + i])[-1])


def test_reset_cache_is_ordinary_again(model: Any) -> None:
    inputs, text = tiny_inputs(), tiny_inputs((0,))
    expected = generate(model, text)
    with tessella.reduce(model, Norm(2), keep=KEEP):
        cache = model(**inputs).past_key_values
    cache.reset()
    assert type(cache) is DynamicCache
    assert generate(model, text, past_key_values=cache) == expected


def _text(inputs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in inputs.items() if k != "pixel_values"}


def _with_positions(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs with the positions that `generate` would give."""
    mask = inputs["attention_mask"]
    return {**inputs, "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)}
