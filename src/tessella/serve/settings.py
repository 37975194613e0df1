"""How a server is set up: what every worker of it is told, and what its front is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..app.source import Source


@dataclass(frozen=True)
class WorkerSettings:
    """One model and how it takes questions.

    `max_batch` are answers written side by side, `max_waiting` questions that may wait for them; a first question waits
    `gather_ms` for company. `timeout_s` is for waiting and answering together. The two caches are bounded in bytes and
    off at 0: encoded pictures, and the caches of reduced pictures whose pipeline does not read the question.
    """

    source: Source = field(default_factory=Source)
    max_batch: int = 32
    max_waiting: int = 256
    gather_ms: float = 4.0
    timeout_s: float = 120.0
    feature_cache_bytes: int = 256 * 2**20
    prompt_cache_bytes: int = 256 * 2**20
