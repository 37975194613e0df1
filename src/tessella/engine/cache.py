"""A prompt's decision travels with its cache: what survived in each segment, and how long the full sequence is.

`reduced(cache, ledger)` turns a `DynamicCache` into one that carries a ledger. Beam search reorders it, `crop` shortens
it, `deepcopy` copies it; and it reports the full length, so that `generate` counts positions and new tokens as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache as memoize
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Cache, DynamicCache

from ..core.errors import UnsupportedError
from .sequence import Segment


@dataclass
class Stored:
    """What the caches of one segment's layers hold: slots of the full prompt, validity and position shift."""

    start: int
    places: Int[Tensor, "B S"]
    valid: Bool[Tensor, "B S"] | None
    shift: Int[Tensor, " B"] | None

    def extend(self, num_new: int, first_place: int, new_valid: Bool[Tensor, "B Q"] | None) -> None:
        batch, device = len(self.places), self.places.device
        new_places = torch.arange(first_place, first_place + num_new, device=device).expand(batch, num_new)
        if self.valid is not None or new_valid is not None:
            old = self.valid if self.valid is not None else torch.ones_like(self.places, dtype=torch.bool)
            new = new_valid if new_valid is not None else torch.ones_like(new_places, dtype=torch.bool)
            self.valid = torch.cat([old, new], dim=1)
        self.places = torch.cat([self.places, new_places], dim=1)

    def select(self, rows: Tensor) -> None:
        rows = rows.to(self.places.device)
        self.places = self.places[rows]
        self.valid = None if self.valid is None else self.valid[rows]
        self.shift = None if self.shift is None else self.shift[rows]

    def crop(self, num_removed: int) -> None:
        self.places = self.places[:, :-num_removed]
        self.valid = None if self.valid is None else self.valid[:, :-num_removed]


@dataclass
class Ledger:
    """What a reduced cache carries. `owner` identifies the run that made the decision."""

    owner: int
    full_length: int
    segments: list[Stored]
    visual_per_layer: list[int]
    position_memory: Int[Tensor, "B 1"] | None = None  # what a model with several position axes counts on from
    running: bool = False
    broken: bool = False  # a forward stopped in the middle, so that layers hold different steps

    @classmethod
    def open(
        cls,
        owner: int,
        full_length: int,
        segments: list[Segment],
        visual_per_layer: list[int],
        position_memory: Int[Tensor, "B 1"] | None = None,
    ) -> Ledger:
        stored = [Stored(s.start, s.places, s.valid, s.shift) for s in segments]
        return cls(owner, full_length, stored, visual_per_layer, position_memory)

    def segment_of(self, layer: int) -> Stored:
        return next(s for s in reversed(self.segments) if s.start <= layer)

    def extend(self, num_new: int, new_valid: Bool[Tensor, "B Q"] | None) -> None:
        for segment in self.segments:
            segment.extend(num_new, self.full_length, new_valid)
        self.full_length += num_new

    def select(self, rows: Tensor) -> None:
        for segment in self.segments:
            segment.select(rows)
        if self.position_memory is not None:
            self.position_memory = self.position_memory[rows.to(self.position_memory.device)]

    def crop(self, num_removed: int) -> None:
        last = torch.arange(self.full_length - num_removed, self.full_length)
        cropped = [s.places[:, -num_removed:].cpu() for s in self.segments]
        if any(not torch.equal(places, last.expand(len(places), -1)) for places in cropped):
            raise UnsupportedError(
                f"cannot crop {num_removed} tokens off a reduced cache: it reaches visual tokens, of which some layers "
                "hold fewer than others. Read the shorter prompt anew."
            )
        for segment in self.segments:
            segment.crop(num_removed)
        self.full_length -= num_removed


class Reduced:
    """Mixed into a cache's class: keeps the ledger in step and refuses to be used outside its run."""

    ledger: Ledger

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.ledger.full_length

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        if not self.ledger.running:
            raise UnsupportedError(
                "this cache holds a prompt with visual tokens removed; use it inside the run that made it "
                "(the same `with tessella.reduce(...)` block)."
            )
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)  # type: ignore[misc]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self.ledger.select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)  # type: ignore[misc]
        self.ledger.select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        batch = len(self.ledger.segments[0].places)
        self.ledger.select(torch.arange(batch).repeat_interleave(repeats))

    def crop(self, tokens_to_remove: int) -> None:
        if tokens_to_remove > 0:
            raise UnsupportedError(f"crop({tokens_to_remove}) is not supported; pass the number to remove as negative.")
        if tokens_to_remove < 0:
            self.ledger.crop(-tokens_to_remove)
        super().crop(tokens_to_remove)  # type: ignore[misc]

    def reset(self) -> None:
        super().reset()  # type: ignore[misc]
        self.__class__ = type(self).__mro__[2]  # type: ignore[misc]
        del self.ledger


def reduced(cache: Cache, ledger: Ledger) -> None:
    """Make a cache carry a ledger, in place. Raises UnsupportedError for caches that are preallocated."""
    check_cache(cache)
    if not isinstance(cache, Reduced):
        cache.__class__ = _reduced_class(type(cache))  # type: ignore[arg-type]
    cache.ledger = ledger  # type: ignore[attr-defined]


def check_cache(cache: Cache | None) -> None:
    """Raise UnsupportedError unless layers of this cache may hold different lengths."""
    if cache is not None and (not isinstance(cache, DynamicCache) or cache.is_compileable):
        raise UnsupportedError(
            f"a {type(cache).__name__} cannot hold a different number of tokens in each layer; "
            "use a DynamicCache, the default of generate."
        )


def cache_in(kwargs: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a model or a layer; transformers 5.24 renamed `past_key_values` to `cache`."""
    cache = kwargs.get("cache")
    return kwargs.get("past_key_values") if cache is None else cache


def ledger_of(cache: Any) -> Ledger | None:
    """The ledger that a cache carries, if any."""
    return cache.ledger if isinstance(cache, Reduced) else None


def stored_lengths(cache: Cache) -> list[int]:
    """Tokens held by each layer, read from the key tensors."""
    return [0 if layer.keys is None else int(layer.keys.shape[-2]) for layer in cache.layers if hasattr(layer, "keys")]


def held_of(layer: Any, num_tokens: int) -> int:
    """Of so many tokens that went into a cache layer, how many it holds: a sliding one those of its last window."""
    window = getattr(layer, "sliding_window", None)
    return num_tokens if window is None else min(num_tokens, window - 1)


def full_bytes(cache: Cache, num_tokens: int) -> int:
    """Bytes that a cache would hold of so many tokens in every layer."""
    total = 0
    for layer in cache.layers:
        for tensor in (layer.keys, layer.values):
            if tensor is not None and tensor.shape[-2]:
                per_token = tensor.numel() // tensor.shape[-2] * tensor.element_size()
                total += per_token * held_of(layer, num_tokens)
    return total


def stored_bytes(cache: Cache) -> int:
    """Bytes of all keys and values."""
    tensors = [t for layer in cache.layers for t in (layer.keys, layer.values) if t is not None]
    return sum(t.numel() * t.element_size() for t in tensors)


@memoize
def _reduced_class(base: type) -> type:
    return type(f"Reduced{base.__name__}", (Reduced, base), {})
