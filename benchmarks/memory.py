"""Memory that tensor operations take: bytes alive at once, and the largest tensor made."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class MemoryWatch(TorchDispatchMode):
    """Counts the storages of all tensors that operations return while it is on; views add nothing.

    `peak_bytes` were alive at once, beyond what was there before; `largest_elements` and `largest_bytes` are of the
    largest storage. What a kernel allocates inside itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = self.largest_elements = self.largest_bytes = 0
        self._live_bytes = 0
        self._holders: Counter[int] = Counter()
        self._given: Counter[int] = Counter()  # storages of arguments that no operation seen here has made

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for given in tree_leaves((args, kwargs)):
            if isinstance(given, Tensor) and not self._holders[key := given.untyped_storage()._cdata]:
                self._given[key] += 1
                weakref.finalize(given, self._given.subtract, [key])  # the address may be used again
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            if isinstance(made, Tensor):
                self._hold(made)
        return out

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if self._given[key] > 0:
            return
        self._holders[key] += 1
        weakref.finalize(tensor, self._release, key, size)
        if self._holders[key] == 1:
            self._live_bytes += size
            self.peak_bytes = max(self.peak_bytes, self._live_bytes)
            self.largest_bytes = max(self.largest_bytes, size)
            self.largest_elements = max(self.largest_elements, size // tensor.element_size())

    def _release(self, key: int, size: int) -> None:
        self._holders[key] -= 1
        if not self._holders[key]:
            self._live_bytes -= size


def watched(function: Callable[[], Any]) -> dict[str, int]:
    """What one call takes in memory."""
    with MemoryWatch() as watch:
        function()
    names = ("peak_bytes", "largest_bytes", "largest_elements")
    return {name: getattr(watch, name) for name in names}
