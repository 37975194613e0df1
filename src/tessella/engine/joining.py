"""Prompts read under different pipelines, written on side by side: their caches joined row by row.

    held = [hold(out.past_key_values, inputs["attention_mask"]) for ...]     # each read in a run of its own
    writer = Writer(model)
    together = join(held)
    logits = writer.write(together, tokens)                                  # [B, C], one token more in each row

A row keeps its places, cuts and positions, whatever stands beside it; padding goes to the left.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer

from ..core.errors import UnsupportedError
from ..models.adapter import find_adapter
from .apply import reduce
from .cache import Ledger, Stored, ledger_of, reduced, stored_bytes

_NOBODY = 0  # the owner of a cache on which nobody writes


@dataclass
class Held:
    """B prompts in a cache that carries a ledger; `mask` says which tokens of the full prompts, and since, are real."""

    cache: Cache
    mask: Bool[Tensor, "B F"]

    @property
    def ledger(self) -> Ledger:
        found = ledger_of(self.cache)
        assert found is not None
        return found

    @property
    def num_rows(self) -> int:
        return len(self.mask)

    @property
    def is_joinable(self) -> bool:
        """False where a layer forgets what is far back: rows of other lengths would forget other tokens."""
        return all(type(layer) is DynamicLayer for layer in self.cache.layers)

    @property
    def num_bytes(self) -> int:
        """Bytes of keys and values."""
        return stored_bytes(self.cache)


def hold(cache: Cache, mask: Int[Tensor, "B F"]) -> Held:
    """The cache of a prompt that was read in a run, or of one without pictures, which needs none."""
    real = mask.bool()
    if ledger_of(cache) is None:
        batch, length = real.shape
        places = torch.arange(length, device=real.device).expand(batch, length)
        stored = Stored(0, places, None if bool(real.all()) else real, None)
        reduced(cache, Ledger(_NOBODY, length, [stored], [0] * len(cache.layers)))
    return Held(cache, real)


def join(held: Sequence[Held]) -> Held:
    """All rows in one cache, in their order. The given ones are left as they are.

    Tokens that no row holds any more are left out. Raises UnsupportedError for caches that are not joinable.
    """
    if not all(h.is_joinable for h in held):
        raise UnsupportedError("a cache whose layers forget tokens, as those of sliding windows do, cannot be joined.")
    length = max(_num_needed(h.mask) for h in held)
    parts = [_Part(h, length) for h in held]
    starts = sorted({s.start for part in parts for s in part.held.ledger.segments})
    ends = [*starts[1:], len(held[0].cache.layers)]
    segments = []
    cache = DynamicCache()
    for start, end in zip(starts, ends, strict=True):
        stored = [part.segment(start) for part in parts]
        columns = [_columns(s) for s in stored]
        segments.append(_joined_segment(start, stored, columns))
        for number in range(start, end):
            layers = [part.held.cache.layers[number] for part in parts]
            keys = _joined([layer.keys for layer in layers], columns)
            cache.update(keys, _joined([layer.values for layer in layers], columns), number)
    ledgers = [part.held.ledger for part in parts]
    reduced(
        cache,
        Ledger(
            _NOBODY,
            length,
            segments,
            [sum(counts) for counts in zip(*(ledger.visual_per_layer for ledger in ledgers), strict=True)],
            _joined_memories(parts),
        ),
    )
    return Held(cache, torch.cat([part.mask for part in parts]))


def take(held: Held, rows: Sequence[int]) -> Held:
    """Some rows, in the order given, in a cache of their own. Raises UnsupportedError as `join` does."""
    index = torch.tensor(list(rows), device=held.mask.device)
    ledger = held.ledger
    segments = [replace(s) for s in ledger.segments]
    for segment in segments:
        segment.select(index)
    memory = None if ledger.position_memory is None else ledger.position_memory[index]
    cache = DynamicCache()
    for number, layer in enumerate(held.cache.layers):
        cache.update(layer.keys[index], layer.values[index], number)
    reduced(cache, replace(ledger, segments=segments, position_memory=memory))
    return join([Held(cache, held.mask[index])])


def shorten(held: Held, count: int) -> Held:
    """A copy without the last `count` tokens, which must be text behind all pictures."""
    copy = take(held, range(held.num_rows))
    if count:
        copy.cache.crop(-count)
        copy.mask = copy.mask[:, :-count]
    return copy


class Writer(AbstractContextManager["Writer"]):
    """Runs a model on tokens that are added to held prompts, inside `with`."""

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self._run = reduce(model, "none")
        names = inspect.signature(find_adapter(model).entry.forward).parameters
        self._cache_name = "cache" if "cache" in names else "past_key_values"

    def __enter__(self) -> Writer:
        self._run.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._run.__exit__()

    def write(
        self, held: Held, tokens: Int[Tensor, "B Q"], real: Bool[Tensor, "B Q"] | None = None
    ) -> Float[Tensor, "B C"]:
        """Logits behind the last of Q tokens that are added to each row; those not `real` are padding on the left."""
        real = torch.ones_like(tokens, dtype=torch.bool) if real is None else real
        positions = held.mask.sum(dim=1, keepdim=True) + (real.cumsum(dim=1) - 1).clamp(min=0)
        memory = held.ledger.position_memory
        if memory is not None:  # text positions, then those of three axes, which are alike for text
            positions = torch.stack([positions, *[positions + memory] * 3])
        held.ledger.owner = self._run.number
        held.mask = torch.cat([held.mask, real], dim=1)
        inputs = self._model.prepare_inputs_for_generation(
            tokens,
            attention_mask=held.mask.long(),
            position_ids=positions,
            use_cache=True,
            is_first_iteration=False,
            **{self._cache_name: held.cache},
        )
        logits: Tensor = self._model(**inputs, logits_to_keep=1, return_dict=True).logits
        return logits[:, -1]


class _Part:
    """Held prompts as they stand in something as long as `length`."""

    def __init__(self, held: Held, length: int) -> None:
        self.held, self.length = held, length
        self.moved = length - held.mask.shape[1]  # less than 0 where padding is taken away
        self.mask = pad(held.mask, (self.moved, 0))

    def segment(self, start: int) -> Stored:
        """The segment of a layer, its places moved, with a validity."""
        stored = self.held.ledger.segment_of(start)
        valid = torch.ones_like(stored.places, dtype=torch.bool) if stored.valid is None else stored.valid
        real = self.held.mask.gather(1, stored.places)
        return Stored(start, (stored.places + self.moved).clamp(min=0), valid & real, stored.shift)


def _num_needed(mask: Bool[Tensor, "B F"]) -> int:
    """Columns from the first that is real in some row on."""
    return mask.shape[1] - int(mask.any(dim=0).int().argmax())


def _columns(stored: Stored) -> Int[Tensor, " K"]:
    """The columns that a row needs."""
    assert stored.valid is not None
    return stored.valid.any(dim=0).nonzero()[:, 0]


def _joined(tensors: Sequence[Float[Tensor, "B G S D"]], columns: Sequence[Tensor]) -> Float[Tensor, "R G L D"]:
    """All rows with their columns alone, padded on the left."""
    length = max(map(len, columns))
    kept = [t if len(c) == t.shape[2] else t[:, :, c] for t, c in zip(tensors, columns, strict=True)]
    return torch.cat([pad(t, (0, 0, length - t.shape[2], 0)) for t in kept])


def _joined_segment(start: int, stored: Sequence[Stored], columns: Sequence[Tensor]) -> Stored:
    length = max(map(len, columns))

    def joined(name: str) -> Tensor:
        chosen = (getattr(s, name)[:, c] for s, c in zip(stored, columns, strict=True))
        return torch.cat([pad(t, (length - t.shape[1], 0)) for t in chosen])

    shifts = [s.places.new_zeros(len(s.places)) if s.shift is None else s.shift for s in stored]
    shift = torch.cat(shifts) if any(s.shift is not None for s in stored) else None
    return Stored(start, joined("places"), joined("valid"), shift)


def _joined_memories(parts: Sequence[_Part]) -> Tensor | None:
    memories = [part.held.ledger.position_memory for part in parts]
    if all(m is None for m in memories):
        return None
    return torch.cat(
        [
            p.mask.new_zeros(len(p.mask), 1, dtype=torch.long) if m is None else m
            for p, m in zip(parts, memories, strict=True)
        ]
    )
