"""Several questions side by side, and what the page is sent of them."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from ...core.errors import TessellaError
from ...pictures.figure import patches_markup
from ..contract import Event, Piece, Reading
from ..refusals import failure, refusal_of
from .columns import Column, agreements
from .markup import facts_markup, verdict_markup

LOG = logging.getLogger("tessella.serve")
Numbered = tuple[int, Event | Exception]


async def side_by_side(sources: Sequence[AsyncGenerator[Event, None]]) -> AsyncGenerator[Numbered, None]:
    """Events of all sources as they come, with the number of their source; what a source raises is its last one."""
    queue: asyncio.Queue[tuple[int, Event | Exception | None]] = asyncio.Queue(1)
    tasks = [asyncio.create_task(_pump(number, source, queue)) for number, source in enumerate(sources)]
    try:
        left = len(tasks)
        while left:
            number, event = await queue.get()
            if event is None:
                left -= 1
            else:
                yield number, event
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(
    number: int, source: AsyncGenerator[Event, None], queue: asyncio.Queue[tuple[int, Event | Exception | None]]
) -> None:
    try:
        async with aclosing(source) as events:
            async for event in events:
                await queue.put((number, event))
    except Exception as error:
        await queue.put((number, error))
    await queue.put((number, None))


async def write_messages(
    columns: Sequence[Column], events: AsyncIterator[Numbered], request: str
) -> AsyncGenerator[str, None]:
    """What the page is sent: the names of the columns, then news of each; the columns are filled meanwhile."""
    told: dict[int, bool] = {}
    yield message({"columns": [column.name for column in columns]})
    yield message({"column": 0, "verdict": verdict_markup(0, None)})
    async for number, event in events:
        news = await _take(columns[number], event, request)
        yield message({"column": number, **news})
        for other, same in agreements(columns).items() - told.items():
            told[other] = same
            yield message({"column": other, "verdict": verdict_markup(other, same)})


async def _take(column: Column, event: Event | Exception, request: str) -> dict[str, Any]:
    """Add an event to a column; what the page has to know of it."""
    if isinstance(event, Exception):
        column.error = _words(event, request)
        return {"error": column.error}
    if isinstance(event, Piece):
        column.answer += event.text
        return {"text": event.text}
    if isinstance(event, Reading):
        column.reading = event
        if event.shown is not None:
            words = f"kept by {column.name}"
            column.view = await asyncio.to_thread(patches_markup, event.shown, words, ".webp")
        return {"view": column.view, "facts": facts_markup(column)}
    column.closing = event
    return {"facts": facts_markup(column), "done": True}


def _words(error: Exception, request: str) -> str:
    if isinstance(error, TessellaError):
        return " ".join(refusal_of(error).detail.split())
    LOG.error("%s failed", request, exc_info=error)
    return failure(request).detail


def message(content: dict[str, Any]) -> str:
    """An event of a stream."""
    return f"data: {json.dumps(content)}\n\n"
