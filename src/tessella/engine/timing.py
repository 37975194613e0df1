"""Time of the parts of a run. On a GPU events are recorded and read when the report is asked for, never in a hook."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

PARTS = ("encode", "score", "select", "prefill", "decode")


class Stopwatch:
    """Milliseconds by part, summed over calls. Time measured inside another part is taken out of the outer one."""

    def __init__(self) -> None:
        self._ms: dict[str, float] = defaultdict(float)
        self._pending: list[tuple[str, str | None, Any, Any]] = []
        self._open: list[tuple[str, Any, torch.device]] = []

    def start(self, part: str, device: torch.device) -> None:
        self._open.append((part, _mark(device), device))

    def stop(self, part: str) -> None:
        while self._open:
            name, begin, device = self._open.pop()
            outer = self._open[-1][0] if self._open else None
            if name == part:
                self._add(name, outer, begin, _mark(device))
                return

    @contextmanager
    def clock(self, part: str, device: torch.device) -> Iterator[None]:
        self.start(part, device)
        try:
            yield
        finally:
            self.stop(part)

    def abandon(self) -> None:
        """Forget parts that an exception left open."""
        self._open.clear()

    def milliseconds(self) -> dict[str, float]:
        """Milliseconds of each part so far; waits for a GPU to finish what was recorded."""
        for part, outer, begin, end in self._pending:
            end.synchronize()
            self._book(part, outer, begin.elapsed_time(end))
        self._pending.clear()
        return {part: self._ms[part] for part in PARTS}

    def _add(self, part: str, outer: str | None, begin: Any, end: Any) -> None:
        if isinstance(begin, float):
            self._book(part, outer, (end - begin) * 1000)
        else:
            self._pending.append((part, outer, begin, end))

    def _book(self, part: str, outer: str | None, ms: float) -> None:
        self._ms[part] += ms
        if outer is not None:
            self._ms[outer] -= ms


def _mark(device: torch.device) -> Any:
    if device.type == "cuda":
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(device))
        return event
    return time.perf_counter()
