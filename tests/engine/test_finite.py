"""NaN and infinity are refused where a method reads them, naming the layer; on other devices once it is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import tessella
from spying import NOTHING, Spy
from tessella.core.errors import InputError
from tessella.core.view import Captures, View
from tessella.engine.finite import Finite
from tessella.models.adapter import find_adapter
from tessella.testing.tiny import tiny_inputs, tiny_llava

READS: dict[str, tuple[Callable[[View], Any], Captures, int, str]] = {
    "features": (lambda v: v.features(), Captures(encoder=(2,)), 0, "output of encoder layer"),
    "class features": (lambda v: v.class_features(), Captures(class_features=True), 0, "output of encoder layer"),
    "class attention": (lambda v: v.class_attention(2), Captures(encoder=(2,)), 0, "attention in encoder layer 2"),
    "received": (lambda v: v.attention_received(1), Captures(encoder=(1,)), 0, "attention in encoder layer 1"),
    "among patches": (lambda v: v.patch_attention(1), Captures(encoder=(1,)), 0, "attention in encoder layer 1"),
    "keys": (lambda v: v.encoder_keys(2), Captures(encoder=(2,)), 0, "keys of encoder layer 2"),
    "class token": (lambda v: v.class_projection(2), Captures(encoder=(2,)), 0, "queries of encoder layer 2"),
    "hidden": (lambda v: v.encoder_hidden(0), Captures(encoder_hidden=(0,)), 0, "output of encoder layer 0"),
}


@pytest.mark.parametrize("name", READS)
def test_what_the_encoder_spoils_is_refused(name: str) -> None:
    function, captures, at_layer, where = READS[name]
    model, inputs = tiny_llava(), tiny_inputs((1,))
    seen: list[Any] = []
    adapter = find_adapter(model)
    handles = [
        adapter.encoder_layers[0].register_forward_hook(_with_nan),
        adapter.connector.register_forward_hook(lambda module, args, out: out.nan_to_num()),  # tokens look fine
    ]
    try:
        with pytest.raises(InputError, match=f"{where}.*: NaN or infinite values"):
            _read(model, inputs, Spy(function, captures, at_layer, seen))
    finally:
        for handle in handles:
            handle.remove()
    assert seen == []
    assert _read(model, inputs, Spy(function, captures, at_layer, seen)).prompts == 1, "the model is as it was"


def test_tokens_that_are_not_finite_are_refused_by_any_method() -> None:
    inputs = tiny_inputs((1,))
    inputs["pixel_values"] = torch.full_like(inputs["pixel_values"], torch.inf)
    with pytest.raises(InputError, match="divprune: the connector's output: NaN or infinite values"):
        _read(tiny_llava(), inputs, "divprune:0.5")


def test_the_decoder_layer_in_front_of_a_cut_is_named() -> None:
    model = tiny_llava()
    handle = model.model.language_model.layers[1].register_forward_hook(_with_nan)
    try:
        with pytest.raises(InputError, match="the output of decoder layer 1"):
            _read(model, tiny_inputs((1,)), Spy(lambda v: None, NOTHING, 2, []))
    finally:
        handle.remove()


def test_a_device_is_asked_later() -> None:
    class Event:
        done = False

        def query(self) -> bool:
            return self.done

        def synchronize(self) -> None:
            self.done = True

    event, finite = Event(), Finite()
    finite._pending.append(("somewhere", torch.tensor(torch.nan), event))  # type: ignore[arg-type]
    finite.poll()  # not there yet
    with pytest.raises(InputError, match=r"^somewhere: NaN"):
        finite.poll(wait=True)
    finite.poll(wait=True)  # said once


def _with_nan(module: Any, args: Any, output: Any) -> Any:
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    spoilt = hidden.masked_fill(torch.arange(hidden.shape[1])[:, None] % 3 == 0, torch.nan)
    return (spoilt, *output[1:]) if isinstance(output, tuple) else spoilt


def _read(model: Any, inputs: dict[str, Tensor], pipeline: Any) -> Any:
    keep = None if isinstance(pipeline, str) else 0.5
    with torch.no_grad(), tessella.reduce(model, pipeline, keep=keep) as run:
        model(**inputs)
        return run.report
