"""`torch.compile` of a model that is then reduced: what is compiled stays compiled, and the answers stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from comparing import generate

import tessella
from tessella.testing.tiny import tiny_inputs, tiny_llava


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def compile_layers(model: Any) -> None:
    for layer in model.model.language_model.layers:
        layer.compile(backend="eager", dynamic=True)


def compile_forward(model: Any) -> None:
    model.forward = torch.compile(model.forward, backend="eager", dynamic=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "compiled", [compile_layers, pytest.param(compile_forward, marks=pytest.mark.slow)], ids=["layers", "forward"]
)
@pytest.mark.parametrize("method", ["fastv@1:0.5", pytest.param("hiprune:0.5", marks=pytest.mark.slow)])
def test_compiled_decode(method: str, compiled: Any) -> None:
    """Prefill and decode steps; hooks run between the compiled parts."""
    inputs = tiny_inputs((1, 1), padding="left")
    model, plain = tiny_llava(num_layers=2), tiny_llava(num_layers=2)
    with tessella.reduce(plain, method) as run:
        want, kept = generate(plain, inputs, do_sample=False), run.kept
    compiled(model)
    with tessella.reduce(model, method) as run:
        assert generate(model, inputs, do_sample=False) == want
        assert [[k.tolist() for k in row] for row in run.kept] == [[k.tolist() for k in row] for row in kept]
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
