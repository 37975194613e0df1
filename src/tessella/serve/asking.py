"""Ask a question and count what comes of it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from .contract import Closing, Event, Piece, Question, Reading
from .metrics import Metrics
from .service import Service


async def observed(service: Service, question: Question, start: float) -> AsyncGenerator[Event, None]:
    """An answerer's events, counted as they pass."""
    has_text = False
    async with aclosing(service.answerer.answer(question)) as events:  # type: ignore[type-var]
        async for event in events:
            _count(service.metrics, event)
            if isinstance(event, Piece) and not has_text:
                has_text = True
                service.metrics.first_text(time.perf_counter() - start)
            yield event


def _count(metrics: Metrics, event: Event) -> None:
    if isinstance(event, Reading):
        metrics.read(event)
    elif isinstance(event, Closing):
        metrics.written(event)
