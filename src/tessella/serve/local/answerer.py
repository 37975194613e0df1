"""Answers from a model in this process."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ...app.catalogue import reasons_against
from ...core.errors import InputError
from ...models.adapter import find_adapter
from ..contract import Closing, Event, Question, Stopping
from ..settings import WorkerSettings
from .prompts import prepare
from .sampling import Defaults
from .ticket import Ticket
from .worker import Worker


class LocalAnswerer:
    """An `Answerer`. After `start`, `processor` is the model's, for whoever makes texts of conversations."""

    processor: Any = None

    def __init__(self, settings: WorkerSettings) -> None:
        settings.check()
        self._settings = settings
        self._model: Any = None
        self._worker: Worker | None = None
        self._facts: dict[str, Any] = {"model": settings.source.name, "ready": False}
        self._is_stopping = False
        # one thread, because a fast tokenizer serves no two at a time
        self._preparing = ThreadPoolExecutor(1, thread_name_prefix="tessella-prepare")

    async def start(self) -> None:
        """Load the model. Raises what `tessella.load` raises."""
        await asyncio.get_running_loop().run_in_executor(self._preparing, self._load)

    def _load(self) -> None:
        self._model, self.processor = self._settings.source.load()
        self._own_processor = copy.deepcopy(self.processor)
        settings = self._model.generation_config
        adapter = find_adapter(self._model)
        self._facts |= {"family": adapter.info.family, "methods": reasons_against(self._model)}
        if settings.do_sample:
            self._facts |= {"temperature": settings.temperature or 1.0, "top_p": settings.top_p or 1.0}
        self._worker = Worker(self._model, self._own_processor, self._settings, _defaults(settings))
        self._worker.start()

    def facts(self) -> dict[str, Any]:
        """What is known of the model, and how many questions wait and run."""
        if self._worker is None:
            return {**self._facts, "waiting": 0, "running": 0}
        counts = {"waiting": self._worker.num_waiting, "running": self._worker.num_running}
        return {**self._facts, "ready": self._worker.is_alive() and not self._is_stopping, **counts}

    async def answer(self, question: Question) -> AsyncGenerator[Event, None]:
        """Events of a question; see `Answerer`."""
        if self._worker is None or self._is_stopping:
            raise Stopping("the server takes no questions at this moment; ask again later.")
        if question.sampling.n > self._settings.max_batch:
            raise InputError(f"n may be at most {self._settings.max_batch}; got {question.sampling.n}.")
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(self._preparing, prepare, self._model, self._own_processor, question)
        ticket = Ticket(question, prepared, self._settings.timeout_s, loop)
        self._worker.submit(ticket)
        try:
            while True:
                event = await ticket.next()
                yield event
                if isinstance(event, Closing):
                    return
        finally:
            self._worker.forget(ticket)

    async def stop(self, seconds: float) -> None:
        """Finish what waits and runs for at most so long; then end the worker."""
        self._is_stopping = True
        if self._worker is None:
            return
        self._worker.close()
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while (self._worker.num_waiting or self._worker.num_running) and loop.time() < until:
            await asyncio.sleep(0.02)
        self._worker.end()
        await loop.run_in_executor(None, self._worker.join, 10.0)
        self._preparing.shutdown(wait=False)


def _defaults(settings: Any) -> Defaults:
    ends = settings.eos_token_id
    return Defaults(
        ends=frozenset(() if ends is None else ends if isinstance(ends, list) else [ends]),
        top_k=(settings.top_k or 0) if settings.do_sample else 0,
        repetition_penalty=settings.repetition_penalty or 1.0,
        suppressed=tuple(settings.suppress_tokens or ()),
    )
