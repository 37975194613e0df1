"""From the messages of a request to a checked question: its text, its pictures and its pipeline."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image

from ..app.conversations import Turn, check_words, write_turns
from ..core.errors import InputError
from ..core.pipeline import Pipeline
from .budgets import check_ceiling
from .media import PictureReader
from .room import Room
from .settings import FrontSettings

MAX_CHARACTERS = 16  # of a prompt's text for each token that it may have; longer ones are refused uncounted


class ConversationReader:
    """Writes prompts for one processor, off the event loop.

    It has a copy of the processor and one thread for it: a tokenizer cannot be used by two at once, and the worker uses
    the other.
    """

    def __init__(self, processor: Any, front: FrontSettings, room: Room) -> None:
        self._processor, self._front = copy.deepcopy(processor), front
        self._pictures = PictureReader(front, room)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts")

    async def read(self, turns: Sequence[Turn]) -> tuple[str, tuple[Image.Image, ...]]:
        """The chat text of turns, whose pictures have a "url" each, and their pictures in order.

        Raises InputError for text, pictures and conversations that cannot be used, Busy where there is no room.
        """
        loop = asyncio.get_running_loop()
        text = await loop.run_in_executor(self._thread, self._write, turns)
        urls = [part["url"] for turn in turns for part in turn["content"] if part["type"] == "image"]
        return text, await self._pictures.read(urls)

    async def check(self, pipeline: Pipeline, text: str, pictures: Sequence[Image.Image]) -> None:
        """Raise BudgetError for a pipeline that keeps more of a prompt than the server lets it."""

        def count() -> int:
            return self._count_visual(text, pictures)

        most = self._front.max_keep
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, check_ceiling, pipeline, most, len(pictures), count)

    async def count_visual(self, text: str, pictures: Sequence[Image.Image]) -> int:
        """The visual tokens of a prompt before any are dropped."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._count_visual, text, pictures)

    def _write(self, turns: Sequence[Turn]) -> str:
        texts = [part["text"] for turn in turns for part in turn["content"] if part["type"] == "text"]
        most = self._front.max_prompt_tokens
        length = sum(map(len, texts))
        if length > most * MAX_CHARACTERS:
            raise InputError(
                f"the prompt's text has {length:,} characters; at most {most * MAX_CHARACTERS:,} are read."
            )
        for text in texts:
            check_words(self._processor, text)
        if not any(text.strip() for text in texts):
            raise InputError("the conversation holds no text; write what is to be answered.")
        written = write_turns(self._processor, turns)
        count = len(self._processor.tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"])
        if count > most:
            raise InputError(f"the prompt's text has {count:,} tokens; this server reads at most {most:,}.")
        return written

    def _count_visual(self, text: str, pictures: Sequence[Image.Image]) -> int:
        ids = self._processor(text=[text], images=[list(pictures)], return_tensors="np")["input_ids"]
        return int((ids == self._processor.image_token_id).sum())
