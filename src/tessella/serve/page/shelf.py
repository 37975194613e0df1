"""Pages that are held for a while, each under a number that nobody guesses."""

from __future__ import annotations

import os
import re
import secrets
from collections import OrderedDict
from pathlib import Path

from ...core.errors import InputError
from ...pictures.saving import save_bytes

_NUMBER = re.compile(r"[A-Za-z0-9_-]{22}")


class Shelf:
    """At most `most` pages of `max_bytes` together, in memory or as files of a folder; the oldest make room.

    Raises InputError for a folder that is not there, or is read-only.
    """

    def __init__(self, most: int, max_bytes: int, folder: str | Path | None = None) -> None:
        self.most, self._max_bytes = most, max_bytes
        self._folder = None if folder is None else Path(folder)
        self._pages: OrderedDict[str, bytes | None] = OrderedDict()  # None: in its file
        self._sizes: dict[str, int] = {}
        if self._folder is not None:
            self._find_files(self._folder)

    def put(self, page: bytes, number: str = "") -> str:
        """Hold a page under `number`, or a new one, and return that. Raises InputError where no file can be written."""
        number = number or secrets.token_urlsafe(16)
        if self._folder is not None:
            save_bytes(page, self._folder / f"{number}.html")
        self._pages[number] = page if self._folder is None else None
        self._pages.move_to_end(number)
        self._sizes[number] = len(page)
        self._make_room()
        return number

    def find(self, number: str) -> bytes | None:
        """The page under a number; None for one that is not held, or not any more."""
        if number not in self._pages:
            return None
        page = self._pages[number]
        if page is not None or self._folder is None:
            return page
        try:
            return (self._folder / f"{number}.html").read_bytes()
        except OSError:  # somebody has tidied the folder up
            return None

    def _find_files(self, folder: Path) -> None:
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise InputError(f"shared results cannot be kept in {str(folder)!r}: it is no folder to write to.")
        found = [file for file in folder.glob("*.html") if _NUMBER.fullmatch(file.stem)]
        for file in sorted(found, key=lambda file: file.stat().st_mtime):
            self._pages[file.stem] = None
            self._sizes[file.stem] = file.stat().st_size
        self._make_room()

    def _make_room(self) -> None:
        while len(self._pages) > self.most or sum(self._sizes.values()) > self._max_bytes:
            number, _ = self._pages.popitem(last=False)
            del self._sizes[number]
            if self._folder is not None:
                (self._folder / f"{number}.html").unlink(missing_ok=True)
