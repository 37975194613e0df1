"""The memory that requests take together: their bodies while they are handled, their pictures while anyone has them."""

from __future__ import annotations

import threading
import weakref

from PIL import Image

from .contract import Busy

BYTES_PER_PIXEL = 3


class Room:
    """Counts bytes that are held, at most `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._held = max_bytes, 0
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Hold more bytes. Raises Busy where there are too many."""
        with self._lock:
            if self._held + size > self._max_bytes:
                raise Busy("bodies and pictures of other requests fill the server's memory; ask again in a second.")
            self._held += size

    def give_back(self, size: int) -> None:
        with self._lock:
            self._held -= size

    def keep(self, picture: Image.Image) -> Image.Image:
        """A picture, whose bytes are held until nobody has it any more. Raises Busy as `take` does."""
        size = picture.width * picture.height * BYTES_PER_PIXEL
        self.take(size)
        weakref.finalize(picture, self.give_back, size).atexit = False
        return picture
