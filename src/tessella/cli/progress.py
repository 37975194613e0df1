"""Show how far a run is, on standard error: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from ..bench.pace import Progress

SECONDS_BETWEEN_LINES = 10.0


class Reporter:
    """A context manager that is called with each progress, or told of each step by `advance`."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._first: tuple[float, int] | None = None  # when `advance` was first told, and of how many steps
        self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES

    def __enter__(self) -> Reporter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        self._tell(progress.answers, progress.total, describe(progress))

    def advance(self, done: int, of: int) -> None:
        """Show a job that counts its steps and says nothing of their times."""
        now = time.monotonic()
        start, before = self._first = self._first or (now, done)
        left = f", {format_seconds((now - start) * (of - done) / (done - before))} left" if done > before else ""
        self._tell(done, of, f"{done:,} of {of:,} steps{left}")

    def _tell(self, done: int, total: int, text: str) -> None:
        if sys.stderr.isatty():
            self._show(done, total, text)
        elif time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + SECONDS_BETWEEN_LINES
            print(text, file=sys.stderr, flush=True)

    def _show(self, done: int, total: int, text: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        if self._bar is None:
            columns = (BarColumn(), TextColumn("{task.description}", markup=False))
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=total)
            self._bar.start()
        self._bar.update(self._task, completed=done, total=total, description=text)


def describe(progress: Progress) -> str:
    """One line: '1,200 of 4,800 answers, 3 min left (fastv:0.5, colour)'."""
    left = format_seconds(progress.seconds_left)
    return f"{progress.answers:,} of {progress.total:,} answers, {left} left ({progress.pipeline}, {progress.kind})"


def format_seconds(seconds: float) -> str:
    """A duration in the unit that suits it.

    >>> format_seconds(42.2), format_seconds(200), format_seconds(7300)
    ('42 s', '3 min', '2 h 2 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
