"""What is counted, for Prometheus, in a registry of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .contract import Closing, Reading

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1)


class Metrics:
    """Counters of one server. `facts` is asked at each scrape what waits and runs."""

    def __init__(self, facts: Callable[[], dict[str, Any]]) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter("tessella_requests", "Requests answered.", ("route", "status"), registry=registry)
        self.cancelled = Counter("tessella_cancelled", "Requests whose client left.", registry=registry)
        self.rejected = Counter("tessella_rejected", "Requests that were refused.", ("code",), registry=registry)
        self._first = Histogram(
            "tessella_time_to_first_token_seconds", "From the request to its first text.", buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self._token = Histogram(
            "tessella_decode_seconds_per_token", "Decoding, for each token written.", buckets=_TOKEN_SECONDS,
            registry=registry,
        )  # fmt: skip
        self._visual = Counter("tessella_visual_tokens", "Visual tokens of prompts.", registry=registry)
        self._kept = Counter("tessella_visual_tokens_kept", "Visual tokens that were kept.", registry=registry)
        self._written = Counter("tessella_tokens_written", "Tokens of answers.", registry=registry)
        self._hits = Counter("tessella_cache_hits", "Prompts that a cache helped.", ("cache",), registry=registry)
        self._misses = Counter("tessella_cache_misses", "Prompts that it did not.", ("cache",), registry=registry)
        for name, meaning in (("waiting", "Questions in the queue."), ("running", "Questions being answered.")):
            gauge = Gauge(f"tessella_questions_{name}", meaning, registry=registry)
            gauge.set_function(lambda name=name: float(facts().get(name, 0)))  # type: ignore[misc]

    def read(self, reading: Reading) -> None:
        """A prompt was read. One whose reduced cache was taken over did not need the encoder either."""
        self._visual.inc(reading.visual_tokens)
        self._kept.inc(reading.visual_tokens_kept)
        if reading.visual_tokens:
            for cache, hit in (("features", reading.cached is not None), ("prompt", reading.cached == "prompt")):
                (self._hits if hit else self._misses).labels(cache).inc()

    def first_text(self, seconds: float) -> None:
        self._first.observe(seconds)

    def written(self, closing: Closing) -> None:
        """An answer is complete."""
        self._written.inc(closing.completion_tokens)
        if closing.completion_tokens:
            self._token.observe(closing.decode_ms / 1000 / closing.completion_tokens)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)
