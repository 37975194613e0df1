"""Removing a given set of visual tokens equals a hand-built short input: logits, decode steps, beams, losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from family_oracle import FamilyOracle, visual_slots
from torch import Tensor

import tessella
from tessella.testing.families import TinyFamily
from tessella.testing.family_cases import Row, Told, batches, decode, inputs_of, prompts, some_of, tokens_of

STEPS = 8
TOLERANCE = 1e-4  # logits are of size 5; the same sums in another order were seen to differ by 2e-5
LAYERS = {"connector": 0, "prefill": 2}
POLICIES = ("original", "compact")
Inputs = dict[str, Tensor]


def policies(model: Any) -> tuple[str, ...]:
    """The position policies that a model allows."""
    with_axes = hasattr(model.model, "rope_deltas")
    return POLICIES[:1] if with_axes else POLICIES


def told(model: Any, inputs: Inputs, at_layer: int) -> Told:
    """A method that keeps a third of the row's visual tokens."""
    return Told(at_layer, (some_of(len(visual_slots(model, inputs["input_ids"][0]))),))


def compare(ours: Tensor, theirs: Tensor, what: str) -> None:
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=TOLERANCE, msg=lambda text: f"{what}: {text}")


def hardest(family: TinyFamily) -> Row:
    """Two pictures, or a picture and a clip."""
    return list(prompts(family).values())[-1]


def test_the_oracle_that_removes_nothing_is_the_untouched_model(family: TinyFamily, model: Any) -> None:
    for name, row in prompts(family).items():
        inputs = inputs_of(family, row)
        everything = range(len(visual_slots(model, inputs["input_ids"][0])))
        compare(FamilyOracle(model, inputs, everything).logits(), model(**inputs).logits[0], name)


@pytest.mark.parametrize("place", LAYERS)
def test_logits_are_those_of_the_short_input(family: TinyFamily, model: Any, place: str) -> None:
    for name, row in prompts(family).items():
        inputs = inputs_of(family, row)
        method = told(model, inputs, LAYERS[place])
        for positions in policies(model):
            oracle = FamilyOracle(model, inputs, method.rows[0], LAYERS[place], positions)
            slots, _ = oracle.states()
            with tessella.reduce(model, method, positions=positions) as run:
                logits = run.expand(model(**inputs).logits)[0]
            assert run.num_cuts == 1
            compare(logits[slots], oracle.logits(), f"{name}, {positions}")
            assert logits[oracle.gone].isnan().all()
            assert len(slots) + len(oracle.gone) == len(logits)


@pytest.mark.parametrize("place", LAYERS)
def test_decode_steps_are_those_of_the_short_input(family: TinyFamily, model: Any, place: str) -> None:
    inputs = inputs_of(family, hardest(family), text_length=2)  # so that sliding windows reach back to what is gone
    method = told(model, inputs, LAYERS[place])
    for positions in policies(model):
        oracle = FamilyOracle(model, inputs, method.rows[0], LAYERS[place], positions)
        with tessella.reduce(model, method, positions=positions):
            tokens, logits = decode(model, inputs, STEPS)
        for step in range(STEPS):
            mine = oracle.logits(tokens[0, :step].tolist())[-1]
            compare(logits[0, step], mine, f"{positions}, step {step}")
            assert int(tokens[0, step]) == int(oracle.speakable(mine).argmax())


@pytest.mark.parametrize("place", LAYERS)
def test_beams_are_those_of_the_short_input(family: TinyFamily, model: Any, place: str) -> None:
    inputs = inputs_of(family, Row(family.sizes[:1]))
    method = told(model, inputs, LAYERS[place])
    for positions in policies(model):
        oracle = FamilyOracle(model, inputs, method.rows[0], LAYERS[place], positions)
        with tessella.reduce(model, method, positions=positions):
            ours = tokens_of(model, inputs, 3, num_beams=3, num_return_sequences=3)
        assert ours == oracle.beams(3, width=3), positions


@pytest.mark.parametrize("place", LAYERS)
def test_losses_are_those_of_the_short_input(family: TinyFamily, model: Any, place: str) -> None:
    """Of a ragged batch, whose rows are cut and read one by one by hand."""
    rows = batches(family)["pictures"][:2]
    batch = inputs_of(family, *rows)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    kept, total, count = [], torch.zeros(()), 0
    for n, row in enumerate(rows):
        single = inputs_of(family, row, first_row=n)
        slots = visual_slots(model, single["input_ids"][0])
        kept.append(some_of(len(slots))[n:])
        padding = labels.shape[1] - single["input_ids"].shape[1]
        labels[n, [padding + s for s in slots]] = -100
        if padding:
            labels[n, padding] = -100  # alone it has no token in front of it
        oracle = FamilyOracle(model, single, kept[n], LAYERS[place])
        loss, targets = oracle.loss(labels[n, padding:].tolist())
        total, count = total + loss, count + targets
    whole = model(**batch, labels=labels).loss
    with tessella.reduce(model, Told(LAYERS[place], tuple(kept)), positions="original"):
        loss = model(**batch, labels=labels).loss
    torch.testing.assert_close(loss, total / count, atol=1e-5, rtol=0)
    assert abs(float(loss - whole)) > 1e-3
