"""Bodies are bounded while they are read, with and without a length in front."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive, Scope

from .refusals import Refusal


def bounded(scope: Scope, receive: Receive, max_bytes: int, seconds: float) -> Receive:
    """`receive` that raises Refusal for a body longer than `max_bytes`, or one that stands still for `seconds`.

    Once the body is complete it waits as long as it takes: what comes then is that the client left.
    """
    read, complete = 0, False
    announced = dict(scope["headers"]).get(b"content-length", b"")

    async def receive_bounded() -> Message:
        nonlocal read, complete
        if complete:
            return await receive()
        if announced.isdigit() and int(announced[:20]) > max_bytes:
            raise _too_long(max_bytes)
        try:
            message = await asyncio.wait_for(receive(), seconds)
        except asyncio.TimeoutError:  # another class than TimeoutError before Python 3.11
            raise Refusal(408, f"the request's body stood still for {seconds:g} s.", "slow_body") from None
        read += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if read > max_bytes:
            raise _too_long(max_bytes)
        return message

    return receive_bounded


def _too_long(max_bytes: int) -> Refusal:
    return Refusal(
        413,
        f"the request's body is longer than the {max_bytes / 1e6:g} MB that are allowed; shrink its pictures.",
        "request_too_large",
        headers={"Connection": "close"},
    )
