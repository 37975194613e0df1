"""Bodies are bounded while they are read, with and without a length in front."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope

from .contract import Busy
from .refusals import Refusal, refusal_of
from .room import Room
from .settings import FrontSettings


class Body:
    """A request's `receive` that raises Refusal for a body that is too long, stands still, or finds no room.

    Once it is complete `receive` waits as long as it takes: what comes then is that the client left. The room is its
    until `leave`.
    """

    def __init__(self, scope: Scope, receive: Receive, front: FrontSettings, room: Room) -> None:
        self._receive, self._front, self._room = receive, front, room
        self._read, self._is_complete = 0, False
        announced = dict(scope["headers"]).get(b"content-length", b"")
        self._announced = int(announced[:20]) if announced.isdigit() else 0

    async def receive(self) -> Message:
        if self._is_complete:
            return await self._receive()
        self._check(self._announced)
        try:
            message = await asyncio.wait_for(self._receive(), self._front.body_s)
        except asyncio.TimeoutError:  # another class than TimeoutError before Python 3.11
            raise Refusal(408, f"the request's body stood still for {self._front.body_s:g} s.", "slow_body") from None
        size = len(message.get("body", b""))
        self._check(self._read + size)
        try:
            self._room.take(size)
        except Busy as error:
            raise refusal_of(error) from None
        self._read += size
        self._is_complete = not message.get("more_body", False)
        return message

    def leave(self) -> None:
        self._room.give_back(self._read)

    def _check(self, length: int) -> None:
        if length > self._front.max_bytes:
            raise Refusal(
                413,
                f"the request's body is longer than the {self._front.max_body_mb:g} MB that are allowed; shrink its "
                "pictures.",
                "request_too_large",
                headers={"Connection": "close"},
            )
