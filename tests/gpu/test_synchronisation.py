"""How often a reduced prompt makes the host wait for the GPU, against the untouched model."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import tessella
from tessella.testing.families import tiny_family

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
FAMILIES = ["llava", "llava_next", "gemma3", "qwen2_5_vl"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["none", "random:0.5", "divprune:0.5", "fastv@2:0.5", "hiprune:0.5"])
def test_waits_of_prefill(family: str, method: str) -> None:
    """None beyond the untouched model's, but for newlines that follow: their count is known to the device only."""
    tiny = tiny_family(family)
    model = tiny.model().cuda()
    inputs = {n: t.cuda() for n, t in tiny.inputs().items()}
    with torch.no_grad():
        model(**inputs)
        plain = waits(model, inputs)
        with tessella.reduce(model, method):
            model(**inputs)
            mine = waits(model, inputs)
    follow = family == "llava_next" and method != "none"
    assert mine <= plain + int(follow)


@pytest.mark.parametrize("family", FAMILIES)
def test_waits_of_decode(family: str) -> None:
    tiny = tiny_family(family)
    model = tiny.model().cuda()
    inputs = {n: t.cuda() for n, t in tiny.inputs().items()}
    counts = []
    for method in (None, "fastv@2:0.5"):
        with torch.no_grad():
            run = tessella.reduce(model, method) if method else None
            if run is not None:
                run.__enter__()
            cache = model(**inputs, use_cache=True).past_key_values
            step = {"input_ids": inputs["input_ids"][:, -1:], "past_key_values": cache}
            model(**step)
            counts.append(waits(model, step))
            if run is not None:
                run.__exit__()
    assert counts[1] <= counts[0]


def waits(model: Any, inputs: dict[str, Any]) -> int:
    """Operations of one forward that wait for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model(**inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(w.message) for w in caught)
