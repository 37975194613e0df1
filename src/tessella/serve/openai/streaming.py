"""Server-sent events: chunks on their way to a client that may be slow, or gone."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from ...core.errors import TessellaError
from ..leaving import ClientGone, while_connected
from ..metrics import Metrics
from ..refusals import failure, refusal_of
from .responses import Chunk

LOG = logging.getLogger("tessella.serve")


class EventStream(StreamingResponse):
    """Sends texts as they come, until there are none, the client leaves, or it takes nothing for `reader_s`.

    Then the events that they are made of are closed. What has not been sent yet waits with whoever answers.
    """

    def __init__(
        self,
        texts: AsyncGenerator[str, None],
        events: AsyncGenerator[Any, None],
        headers: dict[str, str],
        reader_s: float,
        metrics: Metrics,
    ) -> None:
        super().__init__(texts, headers={"Cache-Control": "no-cache", **headers}, media_type="text/event-stream")
        self._events, self._reader_s, self._metrics = events, reader_s, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), self._reader_s)
            except asyncio.TimeoutError:
                raise ClientGone from None

        try:
            await while_connected(receive, self.stream_response(send_in_time))
        except ClientGone:
            self._metrics.cancelled.inc()
        finally:
            await self._events.aclose()


async def write_events(chunks: AsyncIterator[Chunk], wants_usage: bool, number: str) -> AsyncGenerator[str, None]:
    """The texts of a stream: an event for each chunk, then the mark of its end, or one that says what went wrong."""
    left_out = None if wants_usage else {"usage"}
    try:
        async for chunk in chunks:
            yield f"data: {chunk.model_dump_json(exclude=left_out)}\n\n"
    except TessellaError as error:
        yield _event(refusal_of(error).body())
    except Exception:
        LOG.exception("%s failed", number)
        yield _event(failure(number).body())
    else:
        yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"
