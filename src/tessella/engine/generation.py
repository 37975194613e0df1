"""Decoding modes that a reduced model cannot serve, refused with the reason before anything runs."""

from __future__ import annotations

from typing import Any

import torch

from ..core.errors import UnsupportedError
from ..models.adapter import Adapter

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


def check_trainable(adapter: Adapter) -> None:
    """Raise UnsupportedError where the backward pass would run decoder layers again."""
    layers = [m for m in adapter.decoder_layers if m.training and getattr(m, "gradient_checkpointing", False)]
    if layers and torch.is_grad_enabled():
        raise UnsupportedError(
            "gradient checkpointing runs decoder layers again in the backward pass, when the decision that cut their "
            "inputs is gone. Disable it; the shorter sequence saves memory by itself."
        )
