"""Losses and gradients under a reduction, against an oracle of its own. See docs/compatibility.md."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from comparing import (
    KEEP,
    PLACES,
    close,
    fixed_kept,
    kept_above,
    oracles,
    rows_of,
)
from plain_methods import Fixed, Norm
from torch import Tensor, nn

import tessella
from tessella.core.errors import UnsupportedError
from tessella.testing.family_cases import Above
from tessella.testing.tiny import IMAGE_TOKEN, tiny_inputs, tiny_llava


@pytest.fixture(autouse=True)
def _grad(_no_grad: None) -> Iterator[None]:
    with torch.enable_grad():
        yield


@pytest.mark.parametrize("at_layer, positions", PLACES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_labels(model: Any, side: Any, at_layer: int, positions: str) -> None:
    """Loss and gradients equal those of the cut sequences, ragged rows included; every text token is a target."""
    inputs = tiny_inputs((1, 2), padding=side)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels = labels.masked_fill(labels == IMAGE_TOKEN, -100)
    parts = []
    kept = kept_above(model, inputs, at_layer)
    for row, oracle in zip(rows_of(inputs), oracles(model, inputs, kept, at_layer, positions), strict=True):
        parts.append(oracle.loss(labels[len(parts), row.padding : row.padding + len(row.ids)].tolist()))
    expected = sum(p[0] for p in parts) / sum(p[1] for p in parts)
    theirs = torch.autograd.grad(expected, _watched(model))
    with tessella.reduce(model, Above(at_layer), positions=positions):
        loss = model(**inputs, labels=_without_first_of_left_padding(labels, side)).loss
    ours = torch.autograd.grad(loss, _watched(model))
    close(loss, expected)
    for a, b in zip(ours, theirs, strict=True):
        assert b.abs().max() > 1e-4
        close(a, b, 2e-5)


def test_first_token_is_no_target(model: Any) -> None:
    """What the engine pads in front of a row does not predict the row's first token."""
    inputs = tiny_inputs((1, 1))
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE_TOKEN, -100)
    assert labels[0, 0] == 1
    kept = kept_above(model, inputs, 2)
    assert len(kept[0]) != len(kept[1])
    parts = [o.loss(x.tolist()) for o, x in zip(oracles(model, inputs, kept, 2), labels, strict=True)]
    with tessella.reduce(model, Above(2), positions="original"):
        loss = model(**inputs, labels=labels).loss
    close(loss, sum(p[0] for p in parts) / sum(p[1] for p in parts))


def test_shifted_labels(model: Any) -> None:
    """shift_labels, as trainers of long sequences give them, mean the same targets as labels."""
    inputs = tiny_inputs((1, 1))
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE_TOKEN, -100)
    shifted = nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
    with tessella.reduce(model, Above(2)):
        a = model(**inputs, labels=labels).loss
        b = model(**inputs, labels=labels, shift_labels=shifted).loss
    close(b, a)


def test_training_step(model: Any) -> None:
    """A step of training moves the weights as the oracle's gradient says."""
    twin = copy.deepcopy(model).train()
    inputs = tiny_inputs()
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE_TOKEN, -100)
    [oracle] = oracles(twin, inputs, [fixed_kept(KEEP)], 2, "compact")
    total, count = oracle.loss(labels[0].tolist())
    [theirs] = torch.autograd.grad(total / count, [twin.lm_head.weight])
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.5)
    before = twin.lm_head.weight.detach().clone()
    with tessella.reduce(twin, Fixed(2), keep=KEEP):
        twin(**inputs, labels=labels).loss.backward()
        optimizer.step()
    close(twin.lm_head.weight.detach(), before - 0.5 * theirs)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable. is deprecated:FutureWarning")  # renamed
def test_gradient_checkpointing_is_refused() -> None:
    model, inputs = tiny_llava(), tiny_inputs()
    model.gradient_checkpointing_enable()
    model.train()
    with tessella.reduce(model, Norm(2), keep=KEEP):
        with pytest.raises(UnsupportedError, match=r"gradient checkpointing runs decoder layers again"):
            model(**inputs, labels=inputs["input_ids"])
        with torch.no_grad():  # nothing is run again
            short = model(**inputs, use_cache=False).logits
    assert short.shape[1] == 9 + KEEP


def _watched(model: Any) -> list[Tensor]:
    """Weights whose gradients are compared: text embeddings, both ends of the decoder, connector."""
    layers = model.model.language_model.layers
    return [
        model.get_input_embeddings().weight,
        layers[0].self_attn.k_proj.weight,
        layers[3].mlp.down_proj.weight,
        model.model.multi_modal_projector.linear_1.weight,
    ]


def _without_first_of_left_padding(labels: Tensor, side: str) -> Tensor:
    """Labels in which no row's padding is asked to predict its first token, as every trainer masks them."""
    first = (labels != -100).long().argmax(dim=1)
    return labels.scatter(1, first[:, None], -100) if side == "left" else labels
