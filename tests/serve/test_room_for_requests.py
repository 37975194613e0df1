"""What requests hold in memory is counted, bounded, and given back with the last one who has it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from PIL import Image
from real_server import data_url

from tessella.serve.body import Body
from tessella.serve.contract import Busy
from tessella.serve.media import PictureReader
from tessella.serve.refusals import Refusal
from tessella.serve.room import Room
from tessella.serve.settings import FrontSettings

SCOPE: dict[str, Any] = {"headers": []}


def read(reader: PictureReader, *urls: str) -> list[Image.Image]:
    return list(asyncio.run(reader.read(urls)))


def test_pictures_take_room_until_nobody_has_them() -> None:
    reader = PictureReader(FrontSettings(), Room(3 * 200))
    url = data_url(Image.new("RGB", (10, 10)))
    held = read(reader, url, url)
    with pytest.raises(Busy, match="fill the server's memory; ask again in a second"):
        read(reader, url)
    held.pop()
    held += read(reader, url)
    assert [picture.size for picture in held] == [(10, 10)] * 2
    with pytest.raises(Busy):
        read(reader, url)


def test_bodies_take_room_until_they_leave() -> None:
    room = Room(10)

    def body(*pieces: bytes) -> Body:
        left = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]

        async def receive() -> dict[str, Any]:
            return left.pop(0)

        return Body(SCOPE, receive, FrontSettings(), room)

    first, second = body(b"12345678"), body(b"12", b"3")
    asyncio.run(first.receive())
    asyncio.run(second.receive())
    with pytest.raises(Refusal) as refusal:
        asyncio.run(second.receive())
    assert (refusal.value.status_code, refusal.value.headers) == (429, {"Retry-After": "1"})
    second.leave()
    first.leave()
    room.take(10)


def test_a_body_that_stands_still_is_let_go() -> None:
    async def receive() -> Any:
        await asyncio.sleep(60)

    with pytest.raises(Refusal, match=r"the request's body stood still for 0\.05 s") as refusal:
        asyncio.run(Body(SCOPE, receive, FrontSettings(body_s=0.05), Room(9)).receive())
    assert refusal.value.status_code == 408
