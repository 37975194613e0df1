"""The pictures of a request: out of data URLs, or fetched from hosts that the command line allows."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from ..core.errors import InputError
from ..pictures.opening import decode_picture
from .remote import Fetcher
from .room import Room
from .settings import FrontSettings

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # what is decoded for strangers: no format that starts programs
NUM_DECODERS = 2  # threads: as many pictures are being decoded at a time
_DATA_URL = re.compile(r"data:image/(png|jpe?g|webp|gif|bmp);base64,", re.IGNORECASE)


class PictureReader:
    """Reads the pictures of requests off the event loop, as long as there is room for them."""

    def __init__(self, front: FrontSettings, room: Room) -> None:
        self._front, self._room = front, room
        self._fetcher = Fetcher(front.allow_hosts, front.max_bytes, front.fetch_s)
        self._threads = ThreadPoolExecutor(NUM_DECODERS, thread_name_prefix="pictures")

    async def read(self, urls: Sequence[str]) -> tuple[Image.Image, ...]:
        """The pictures of URLs, in their order. Raises InputError naming the picture that cannot be had, and why.

        Raises Busy where those of other requests fill the memory.
        """
        if len(urls) > self._front.max_pictures:
            raise InputError(f"a request may hold {self._front.max_pictures} pictures; got {len(urls)}.")
        tasks = [asyncio.ensure_future(self._read(url, f"picture {n}")) for n, url in enumerate(urls, start=1)]
        try:
            return tuple(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _read(self, url: str, name: str) -> Image.Image:
        content = url if url[:5].lower() == "data:" else await self._fetcher.fetch(url, name)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._decode, content, name)

    def _decode(self, content: str | bytes, name: str) -> Image.Image:
        data = read_data_url(content, name) if isinstance(content, str) else content
        self._room.take(0)  # where it is full, nothing more is decoded
        return self._room.keep(decode_picture(data, name, FORMATS, self._front.max_pixels).image)


def read_data_url(url: str, name: str) -> bytes:
    """The bytes in a data URL of a picture. Raises InputError unless it is base64 of a kind that is read."""
    head = _DATA_URL.match(url)
    if head is None:
        raise InputError(
            f"{name}: a data URL must begin with 'data:image/TYPE;base64,' where TYPE is png, jpeg, webp, gif or bmp."
        )
    try:
        return base64.b64decode(url[head.end() :].encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise InputError(f"{name}: what follows 'base64,' is not base64.") from None
