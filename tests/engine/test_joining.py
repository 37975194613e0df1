"""Prompts read under different pipelines and written on side by side give what each gives alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import tessella
from tessella.core.errors import UnsupportedError
from tessella.engine.cache import ledger_of
from tessella.engine.joining import Held, Writer, hold, join, shorten, take
from tessella.testing.families import TinyFamily, tiny_family
from tessella.testing.family_cases import NO_TEXT_ALONE, supported_families, tiny_model

STEPS = 6
SLIDING = frozenset({"gemma3"})
READ = {  # pipelines, with the words behind the picture of the prompt that is read under them
    "none": 9,
    "uniform:0.5": 3,
    "downsample:0.5": 5,
    "random:1": 4,
    "fastv@2:0.5": 7,
    "divprune:0.75 | fastv@1:0.5": 2,
}


def read(family: TinyFamily, pipeline: str, words: int, seed: int) -> tuple[dict[str, Tensor], Any]:
    """The inputs of a prompt of one row, and what `generate` gives for it under a pipeline."""
    model = tiny_model(family)
    images = [()] if words < 0 else None
    inputs = family.inputs(images, text_length=abs(words), seed=seed)
    with tessella.reduce(model, pipeline, positions=positions_of(family, pipeline)):
        out = model.generate(
            **inputs,
            max_new_tokens=STEPS,
            min_new_tokens=STEPS,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            suppress_tokens=None,
        )
    return inputs, out


def first(family: TinyFamily, pipeline: str, words: int, seed: int) -> Held:
    """The same prompt, read only."""
    model = tiny_model(family)
    inputs = family.inputs([()] if words < 0 else None, text_length=abs(words), seed=seed)
    with tessella.reduce(model, pipeline, positions=positions_of(family, pipeline)):
        out = model.generate(**inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True)
    return hold(out.past_key_values, inputs["attention_mask"])


def positions_of(family: TinyFamily, pipeline: str) -> Any:
    """Positions of several axes cannot be counted anew."""
    return (
        "compact" if pipeline.startswith("uniform") and not hasattr(tiny_model(family).model, "rope_deltas") else None
    )


def cases(family: TinyFamily) -> list[tuple[str, int, int]]:
    carried = [p for p in READ if tessella.can_apply(tiny_model(family), p)]
    found = [(pipeline, READ[pipeline], seed) for seed, pipeline in enumerate(carried)]
    if family.id not in NO_TEXT_ALONE:
        found.append(("none", -6, 9))  # no picture
    return found


@pytest.mark.parametrize("name", sorted(set(supported_families()) - SLIDING))
def test_rows_of_different_pipelines_are_written_as_each_alone(name: str) -> None:
    family = tiny_family(name)
    alone = [read(family, *case) for case in cases(family)]
    held = join([first(family, *case) for case in cases(family)])
    with Writer(tiny_model(family)) as writer, torch.inference_mode():
        for step in range(1, STEPS):
            tokens = torch.stack([out.sequences[0, inputs["input_ids"].shape[1] + step - 1] for inputs, out in alone])
            logits = writer.write(held, tokens[:, None])
            wanted = torch.cat([out.logits[step] for _, out in alone])
            torch.testing.assert_close(logits, wanted, rtol=2e-4, atol=2e-4)


@pytest.fixture
def llava() -> TinyFamily:
    return tiny_family("llava")


def test_rows_come_and_go_between_steps(llava: TinyFamily) -> None:
    some = cases(llava)
    alone = [read(llava, *case) for case in some]

    def token(row: int, step: int) -> Tensor:
        inputs, out = alone[row]
        return out.sequences[0, inputs["input_ids"].shape[1] + step]

    with Writer(tiny_model(llava)) as writer, torch.inference_mode():
        held = join([first(llava, *some[0]), first(llava, *some[4])])
        for step in (0, 1):
            writer.write(held, torch.stack([token(0, step), token(4, step)])[:, None])
        held = join([take(held, [1]), first(llava, *some[1])])
        logits = writer.write(held, torch.stack([token(4, 2), token(1, 0)])[:, None])
    torch.testing.assert_close(logits, torch.cat([alone[4][1].logits[3], alone[1][1].logits[1]]), rtol=2e-4, atol=2e-4)
    longest = max(h.mask.shape[1] for h in (first(llava, *some[4]), first(llava, *some[1])))
    assert held.mask.shape[1] <= longest + 3
    assert held.num_rows == 2


def test_a_row_taken_alone_holds_no_padding(llava: TinyFamily) -> None:
    short, long = first(llava, "random:1", 4, 3), first(llava, "none", 9, 0)
    again = take(join([short, long]), [0])
    assert again.num_bytes == short.num_bytes
    assert again.cache.layers[0].keys.shape == short.cache.layers[0].keys.shape
    assert torch.equal(again.cache.layers[-1].keys, short.cache.layers[-1].keys)


def test_a_prompt_shortened_to_its_picture_goes_on_with_another_question(llava: TinyFamily) -> None:
    model = tiny_model(llava)
    inputs, out = read(llava, "divprune:0.75", 5, 0)
    other, wanted = read(llava, "divprune:0.75", 5, 1)
    ids = torch.cat([inputs["input_ids"][:, :-5], other["input_ids"][:, -5:]], dim=1)
    with tessella.reduce(model, "divprune:0.75"):
        wanted = model.generate(
            **{**inputs, "input_ids": ids}, max_new_tokens=1, return_dict_in_generate=True, output_logits=True
        )
    picture = shorten(hold_of(llava, "divprune:0.75"), 5)
    before = picture.num_bytes
    asked = join([picture])
    with Writer(model) as writer, torch.inference_mode():
        logits = writer.write(asked, ids[:, -5:])
    torch.testing.assert_close(logits, wanted.logits[0], rtol=1e-4, atol=1e-4)
    assert picture.num_bytes == before
    assert not torch.allclose(logits, out.logits[0], atol=1e-2)


def hold_of(family: TinyFamily, pipeline: str) -> Held:
    return first(family, pipeline, 5, 0)


def test_questions_of_unequal_length_go_on_side_by_side(llava: TinyFamily) -> None:
    model = tiny_model(llava)
    whole = [first(llava, "divprune:0.75", 5, seed) for seed in (0, 1)]
    pictures = join([shorten(whole[0], 5), shorten(whole[1], 2)])
    ids = [llava.inputs(text_length=5, seed=seed)["input_ids"][0] for seed in (0, 1)]
    tokens = torch.stack([ids[0][-5:], torch.cat([torch.zeros(3, dtype=torch.long), ids[1][-2:]])])
    real = torch.tensor([[True] * 5, [False] * 3 + [True] * 2])
    with Writer(model) as writer, torch.inference_mode():
        logits = writer.write(pictures, tokens, real)
    wanted = torch.cat([read(llava, "divprune:0.75", 5, seed)[1].logits[0] for seed in (0, 1)])
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)


def test_layers_that_forget_are_refused() -> None:
    gemma = tiny_family("gemma3")
    held = first(gemma, "none", 3, 0)
    assert not held.is_joinable
    with pytest.raises(UnsupportedError, match="sliding windows"):
        join([held, held])


def test_the_writer_leaves_the_model_as_it_came(llava: TinyFamily) -> None:
    model = tiny_model(llava)
    held = first(llava, "none", 3, 0)
    with Writer(model) as writer, torch.inference_mode():
        writer.write(held, torch.tensor([[7]]))
        assert tessella.engine.run.active_run(model) is not None
    assert tessella.engine.run.active_run(model) is None
    ledger = ledger_of(held.cache)
    assert ledger is not None
    assert ledger.full_length == held.mask.shape[1]
