"""Decoding modes that a reduced model cannot serve, refused with the reason before anything runs."""

from __future__ import annotations

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


def check_trainable(adapter: Adapter) -> None:
    """Raise UnsupportedError where the backward pass would run decoder layers again."""
    layers = [m for m in adapter.decoder_layers if m.training and getattr(m, "gradient_checkpointing", False)]
    if layers and torch.is_grad_enabled():
        raise UnsupportedError(
            "gradient checkpointing runs decoder layers again in the backward pass, when the decision that cut their "
            "inputs is gone. Disable it; the shorter sequence saves memory by itself."
        )
