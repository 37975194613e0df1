"""Tokens added to a prompt on its cache: decode steps, or a second turn."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from ..core.errors import UnsupportedError
from ..models.adapter import Adapter, MaskRule
from .cache import Ledger, Stored, cache_in, held_of
from .capture import PREFIX
from .masks import as_implementation, decode_mask

Kwargs = dict[str, Any]


class Continuing:
    """Tokens added to a prompt on its cache: decode steps, or a second turn."""

    def __init__(self, adapter: Adapter, ledger: Ledger, attention_mask: Tensor | None, num_new: int) -> None:
        self._adapter, self._ledger = adapter, ledger
        self.num_new = num_new
        self._finished = False
        self._new_valid: Tensor | None = None
        self._seen: Tensor | None = None  # [B, full], of the prompt and all since
        if attention_mask is not None:
            self._new_valid = attention_mask[:, -num_new:].bool()
            if attention_mask.shape[1] == ledger.full_length + num_new:
                self._seen = attention_mask[:, :-num_new].bool()
        self._masks: dict[tuple[int, int, Any], Tensor | None] = {}
        self._rotary: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def before_layer(self, layer: int, hidden: Tensor, kwargs: Kwargs) -> tuple[Tensor, Kwargs]:
        """Give a layer the mask of its own cache, and positions that continue its segment."""
        stored = self._ledger.segment_of(layer)
        num_held = self._check_length(layer, stored, cache_in(kwargs))
        out = dict(kwargs)
        out["attention_mask"] = self._mask(layer, stored, num_held, hidden)
        if stored.shift is not None:
            positions = kwargs["position_ids"].expand(len(hidden), -1) - stored.shift[:, None]
            out["position_ids"] = positions
            key = (stored.start, id(kwargs.get("position_embeddings")))  # local and global layers may have their own
            if key not in self._rotary:
                self._rotary[key] = self._adapter.rotary(hidden, positions, layer)
            out["position_embeddings"] = self._rotary[key]
        return hidden, out

    def finish(self) -> None:
        self._ledger.extend(self.num_new, self._new_valid)
        self._finished = True

    def close(self, owner: int) -> None:
        """Lock the cache again; mark it if the forward did not come to its end."""
        self._ledger.running = False
        self._ledger.broken = not self._finished

    def cut_labels(self, labels: Tensor, ignore_index: int = -100) -> Tensor:
        return labels

    def _check_length(self, layer: int, stored: Stored, cache: Cache) -> int:
        """Tokens that a layer holds; a sliding one forgets those far back."""
        held = tuple(cache.layers[layer].keys.shape[::2])
        known = (len(stored.places), held_of(cache.layers[layer], stored.places.shape[1]))
        if held != known:
            raise UnsupportedError(
                f"layer {layer} of this cache holds [batch, tokens] = {list(held)} where the run knows of "
                f"{list(known)}: it was changed by other means than reorder_cache, crop, batch_select_indices and "
                "batch_repeat_interleave. Start with an empty cache."
            )
        return known[1]

    def _mask(self, layer: int, stored: Stored, num_held: int, hidden: Tensor) -> Tensor | None:
        rule = self._adapter.mask_rule(layer)
        key = (stored.start, num_held, rule)
        if key not in self._masks:
            self._masks[key] = self._make_mask(stored, num_held, rule, hidden)
        return self._masks[key]

    def _make_mask(self, stored: Stored, num_held: int, rule: MaskRule | None, hidden: Tensor) -> Tensor | None:
        first, batch, forgotten = self._ledger.full_length, len(hidden), stored.places.shape[1] - num_held
        places = stored.places[:, forgotten:]
        valid = None if stored.valid is None else stored.valid[:, forgotten:]
        if self._seen is not None:
            seen = self._seen.gather(1, places)
            valid = seen if valid is None else valid & seen
        mask = decode_mask(
            valid,
            self._new_valid,
            batch=batch,
            num_past=num_held,
            num_new=self.num_new,
            device=hidden.device,
            rule=rule,
            past_places=places,
            new_places=torch.arange(first, first + self.num_new, device=hidden.device).expand(batch, -1),
        )
        name = self._adapter.language_model.config._attn_implementation or "eager"
        return as_implementation(mask, name.removeprefix(PREFIX), hidden.dtype)
