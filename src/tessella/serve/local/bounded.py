"""What was used last, within a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Bounded(Generic[K, V]):
    """Values by key; those that were not used for longest leave when there is no room. Off with a limit of 0."""

    def __init__(self, limit: int) -> None:
        self.limit, self.num_bytes = limit, 0
        self._held: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: K) -> V | None:
        """A value, which counts as used."""
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key][0]

    def put(self, key: K, value: V, size: int) -> list[V]:
        """Keep a value of so many bytes, unless it alone is too large. Returns those that left for it."""
        out = []
        if key in self._held:
            out.append(self._pop(key))
        if size > self.limit:
            return out
        while self.num_bytes + size > self.limit:
            out.append(self._pop(next(iter(self._held))))
        self._held[key] = (value, size)
        self.num_bytes += size
        return out

    def _pop(self, key: K) -> V:
        value, size = self._held.pop(key)
        self.num_bytes -= size
        return value
