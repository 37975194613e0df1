"""One thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from ..core.errors import UnsupportedError


class ThreadGuard:
    """Lets one thread at a time use a run; a second is refused, not queued."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: int | None = None
        self._depth = 0

    def enter(self) -> None:
        with self._lock:
            me = threading.get_ident()
            if self._owner not in (None, me):
                raise UnsupportedError(
                    "another thread is using this model under a reduction; a run serves one thread at a time. Use one "
                    "model a thread, or a queue."
                )
            self._owner = me
            self._depth += 1

    def is_mine(self) -> bool:
        return self._owner == threading.get_ident()

    def leave(self) -> None:
        with self._lock:
            if self._owner != threading.get_ident():
                return
            self._depth -= 1
            if self._depth <= 0:
                self._owner, self._depth = None, 0

    @contextmanager
    def held(self) -> Iterator[None]:
        self.enter()
        try:
            yield
        finally:
            self.leave()
