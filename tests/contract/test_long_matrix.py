"""The long matrix: every method on every kind of model, attention, precision, position policy and count."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

import tessella
from tessella.core.pipeline import example_of
from tessella.testing.tiny import NUM_VISUAL, tiny_inputs, tiny_llava

pytestmark = pytest.mark.slow

METHODS = [str(example_of(i)) for i, c in tessella.methods().items() if c.card.takes_keep]
MODELS = list(itertools.product(["clip", "siglip"], ["sdpa", "eager"], [torch.float32, torch.bfloat16]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("encoder", "attention", "dtype"), MODELS)
def test_counts_and_decoding(method: str, encoder: Any, attention: str, dtype: torch.dtype) -> None:
    model = tiny_llava(encoder, attention=attention, dtype=dtype)
    card = tessella.parse(method).parts[0].method.card
    if not (verdict := tessella.can_apply(model, method)):
        assert verdict.reason
        assert encoder == "siglip" or {"frames", "text_tower"} & set(card.needs)
        return
    options = {"max_new_tokens": 4, "do_sample": False, "suppress_tokens": [5]}
    for seed, positions, keep in itertools.product(range(3), ["original", "compact"], [1, 5, NUM_VISUAL - 1, 0.5]):
        keep = max(keep, card.min_keep) if isinstance(keep, int) else keep
        inputs = tiny_inputs((2, 1, 1), padding="left", dtype=dtype, seed=seed)
        with torch.no_grad(), tessella.reduce(model, method, keep=keep, positions=positions) as run:
            cached = model.generate(**inputs, **options)
            kept = [sum(map(len, row)) for row in run.kept]
            again = model.generate(**inputs, **options, use_cache=False)
            logits = model(**inputs).logits
        each = keep if isinstance(keep, int) else NUM_VISUAL // 2
        whole = (2 * NUM_VISUAL, NUM_VISUAL, NUM_VISUAL)
        promised = card.promised_count(asked=True)
        if promised == "exact":
            assert kept == [2 * each, each, each]
        else:  # or a count that the picture decides
            most = (2 * each, each, each) if promised == "at_most" else whole
            assert all(0 <= k <= m for k, m in zip(kept, most, strict=True))
        assert torch.isfinite(logits).all()
        if dtype == torch.float32:
            assert torch.equal(cached, again)
