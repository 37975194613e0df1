"""A question on its way through the worker, and the way back for its events."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

from ..contract import Event, Late, Question
from .prompts import Prepared

Answered = Event | BaseException


@dataclass(eq=False)
class Ticket:
    """A prepared question. Its worker calls `tell`, from its own thread; whoever asked awaits `next`."""

    question: Question
    prepared: Prepared
    timeout_s: float
    loop: asyncio.AbstractEventLoop
    events: asyncio.Queue[Answered] = field(default_factory=asyncio.Queue)
    created: float = field(default_factory=time.monotonic)
    left: bool = False  # nobody waits for the answer any more

    def tell(self, event: Answered) -> None:
        if not self.left:
            with contextlib.suppress(RuntimeError):  # the loop has been closed, so nobody waits
                self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    async def next(self) -> Event:
        """The next event, or what went wrong. Raises Late when the time is over."""
        left = self.created + self.timeout_s - time.monotonic()
        try:
            event = await asyncio.wait_for(self.events.get(), max(left, 0.0))
        except asyncio.TimeoutError:
            raise Late(f"the answer was not complete within {self.timeout_s:g} seconds.") from None
        if isinstance(event, BaseException):
            raise event
        return event

    @property
    def waited_ms(self) -> float:
        return (time.monotonic() - self.created) * 1000
