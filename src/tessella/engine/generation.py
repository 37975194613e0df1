"""Decoding modes that a reduced model cannot serve, refused with the reason before anything runs."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..core.errors import UnsupportedError
from ..models.adapter import Adapter
from .rewriting import Rewrite

_REFUSED = {
    "assistant_model": "assisted decoding rolls the cache back to lengths that differ by layer",
    "prompt_lookup_num_tokens": "prompt lookup is assisted decoding, which rolls the cache back by layer",
    "assistant_early_exit": "early-exit assistance runs some layers twice on one cache",
    "prefill_chunk_size": "chunked prefill shows a method part of the prompt only, and a reduction is decided once",
    "custom_generate": "a custom decoding loop is unknown to the engine",
    "use_mtp": "multi-token prediction rolls the cache back by layer",
}


def check_generate(model: Any, kwargs: dict[str, Any]) -> None:
    """Raise UnsupportedError for arguments of `generate`, or defaults of its config, that cannot be honoured."""
    config = kwargs.get("generation_config") or model.generation_config
    for name, reason in _REFUSED.items():
        if kwargs.get(name, getattr(config, name, None)):
            raise UnsupportedError(f"generate({name}=...) is not supported on a reduced model: {reason}.")
    implementation = kwargs.get("cache_implementation", getattr(config, "cache_implementation", None))
    if implementation not in (None, "dynamic", "dynamic_full"):
        raise UnsupportedError(
            f"cache_implementation={implementation!r} is not supported on a reduced model: layers hold different "
            "numbers of tokens, which takes a dynamic cache. Leave it out."
        )


def with_room(model: Any, kwargs: dict[str, Any], rewrite: Rewrite) -> dict[str, Any]:
    """Arguments of `generate` whose limits on the whole length mean the user's prompt, not the rewritten one."""
    config = kwargs.get("generation_config") or model.generation_config
    gone = rewrite.length - rewrite.origin.shape[1]
    out = dict(kwargs)
    for name in ("max_length", "min_length"):
        limit = kwargs.get(name, getattr(config, name, None))
        if limit:
            out[name] = limit - gone
    return out


def with_prompt(out: Any, prompt: Tensor, rewrite: Rewrite) -> Any:
    """What `generate` gave, its sequences with the user's own prompt in front of the new tokens."""
    sequences = out if isinstance(out, Tensor) else out.sequences
    new = sequences[:, rewrite.origin.shape[1] :]
    sequences = torch.cat([prompt.repeat_interleave(len(sequences) // len(prompt), dim=0), new], dim=1)
    if isinstance(out, Tensor):
        return sequences
    out.sequences = sequences
    return out


def repeated_order(entries: Sequence[Tensor], tokens_of_rows: Sequence[int], times: int) -> list[int]:
    """Which encoded entry stands at each place where every row of a batch is repeated: A B becomes A B A B.

    `tokens_of_rows` are the placeholders of each row. transformers 5.18 repeats each entry by itself (A A B B), as its
    GLM-4V still does in 5.24, so that a row with two pictures would see the first one twice.

    >>> repeated_order([torch.zeros(4, 8)] * 3, [8, 4], 2)
    [0, 1, 0, 1, 2, 2]
    """
    ends = list(accumulate(e.numel() // e.shape[-1] for e in entries))
    order: list[int] = []
    first = 0
    for end in accumulate(tokens_of_rows):
        last = bisect_right(ends, end)
        order += list(range(first, last)) * times
        first = last
    return order


def in_order_of(output: Any, order: Sequence[int]) -> Any:
    """An encoder's output with its entries, and their deep-stack features, in another order; the given one stays."""

    def reorder(features: Any) -> Any:
        return features[list(order)] if isinstance(features, Tensor) else [features[i] for i in order]

    out = copy.copy(output)
    out.pooler_output = reorder(output.pooler_output)
    if getattr(output, "deepstack_features", None) is not None:
        out.deepstack_features = [reorder(layer) for layer in output.deepstack_features]
    return out


def check_trainable(adapter: Adapter) -> None:
    """Raise UnsupportedError where the backward pass would run decoder layers again."""
    layers = [m for m in adapter.decoder_layers if m.training and getattr(m, "gradient_checkpointing", False)]
    if layers and torch.is_grad_enabled():
        raise UnsupportedError(
            "gradient checkpointing runs decoder layers again in the backward pass, when the decision that cut their "
            "inputs is gone. Disable it; the shorter sequence saves memory by itself."
        )
