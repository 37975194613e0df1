"""Hand questions to replicas, and each event on once, whatever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from ..contract import Busy, Closing, Event, Late, Lost, Piece, Question, Reading, Stopping
from ..settings import WorkerSettings
from .deployment import Deployment
from .replica import Refusal
from .scale import Scale

MOST_TRIES = 3  # of one question, where replica after replica dies over it
LOOK_AGAIN = 1.0  # seconds until replicas are counted again


class Died(Exception):
    """The replica that was asked is gone."""


class RayAnswerer:
    """An answerer whose questions are answered on a Ray cluster.

    A question whose replica dies is asked again, with the same seed, as long as none of its pieces has been handed on.
    Of one that is not streamed the pieces are held back until it is closed, so that it can always be asked again.
    """

    def __init__(self, settings: WorkerSettings, address: str, scale: Scale) -> None:
        self._settings, self._scale = settings, scale
        self._deployment = Deployment(settings, address, scale)
        self._stopping = self._over = False
        self._under_way = self._ready = 0
        self._awaited: set[asyncio.Future[Any]] = set()
        self._known: dict[str, Any] = {}
        self._counting: asyncio.Task[None] | None = None
        self.processor: Any = None

    async def start(self) -> None:
        """Return once a replica is ready. Raises InputError in one line for what cannot be reached or loaded."""
        starting = asyncio.create_task(self._start())
        try:
            await asyncio.shield(starting)
        except BaseException:
            self._deployment.give_up()
            await asyncio.wait({starting})
            await asyncio.to_thread(self._deployment.stop)
            raise
        self.processor, self._known = await self._deployment.handle.describe.remote()
        self._ready = 1
        self._counting = asyncio.create_task(self._keep_counting())

    def facts(self) -> dict[str, Any]:
        """Of the model as a replica says; of readiness and questions as they are seen from here."""
        replicas = {"ready": self._ready, "min": self._scale.min_replicas, "max": self._scale.max_replicas}
        waiting = max(0, self._under_way - self._side_by_side)
        return {
            **self._known,
            "model": self._settings.source.name,
            "ready": self._ready > 0 and not self._stopping,
            "waiting": waiting,
            "running": self._under_way - waiting,
            "replicas": replicas,
        }

    async def answer(self, question: Question) -> AsyncGenerator[Event, None]:
        """Events of a question. Raises Busy, Late, Stopping, Lost, or what the replica raised."""
        self._admit()
        self._under_way += 1
        try:
            async with aclosing(self._answer(question, time.monotonic() + self._settings.timeout_s)) as events:
                async for event in events:
                    yield event
        finally:
            self._under_way -= 1

    async def stop(self, seconds: float) -> None:
        """Take no more questions, finish what runs for at most so long, then cancel the rest and end the replicas."""
        self._stopping = True
        until = time.monotonic() + seconds
        while self._under_way and time.monotonic() < until:
            await asyncio.sleep(0.05)
        self._over = True
        for awaited in self._awaited:
            awaited.cancel()
        if self._counting is not None:
            self._counting.cancel()
            await asyncio.gather(self._counting, return_exceptions=True)
        await asyncio.to_thread(self._deployment.stop)

    @property
    def _side_by_side(self) -> int:
        return self._settings.max_batch * max(self._ready, 1)

    def _admit(self) -> None:
        if self._stopping:
            raise Stopping("the server is shutting down.")
        most = self._side_by_side + self._settings.max_waiting
        if self._under_way >= most:
            raise Busy(f"{self._under_way} questions are under way, as many as are taken; ask again in a second.")

    async def _answer(self, question: Question, deadline: float) -> AsyncGenerator[Event, None]:
        read = begun = False
        for _ in range(MOST_TRIES):
            held: list[Piece] = []
            try:
                async with aclosing(self._ask(question, deadline)) as events:
                    async for event in events:
                        if isinstance(event, Reading) and read:
                            continue  # by another replica, of the same prompt
                        if isinstance(event, Piece) and not question.streamed:
                            held.append(event)
                            continue
                        if isinstance(event, Closing):
                            for piece in held:
                                yield piece
                        read, begun = True, begun or not isinstance(event, Reading)
                        yield event
                return
            except Died as error:
                if begun:
                    raise Lost("what was answering has died in the middle of the answer; ask again.") from error
        raise Lost(f"{MOST_TRIES} replicas in turn have died over this question.")

    async def _ask(self, question: Question, deadline: float) -> AsyncGenerator[Event, None]:
        """What one replica answers. Raises Died where it is gone."""
        response = self._deployment.handle.options(stream=True).answer.remote(question)
        ended = False
        try:
            while (event := await self._next(response, deadline)) is not None:
                if isinstance(event, Refusal):
                    raise event.error
                yield event
            ended = True
        finally:
            if not ended:
                response.cancel()

    async def _next(self, response: Any, deadline: float) -> Event | Refusal | None:
        from ray.exceptions import RayError, RayTaskError
        from ray.serve.exceptions import RayServeException

        awaited = asyncio.ensure_future(anext(response, None))
        self._awaited.add(awaited)
        try:
            done, _ = await asyncio.wait({awaited}, timeout=max(0.0, deadline - time.monotonic()))
            if self._over:
                raise Stopping("the server is shutting down.")
            if not done:
                raise Late(f"the question has taken longer than {self._settings.timeout_s:g} s.")
            if awaited.cancelled():
                raise Died("cancelled on its replica")
            return awaited.result()
        except RayTaskError:
            raise
        except (RayError, RayServeException) as error:
            raise Died(" ".join(str(error).split())) from error
        finally:
            self._awaited.discard(awaited)
            awaited.cancel()

    async def _start(self) -> None:
        await asyncio.to_thread(self._deployment.reach)
        keep_signals()
        await asyncio.to_thread(self._deployment.deploy)

    async def _keep_counting(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN)
            with contextlib.suppress(Exception):  # a cluster in trouble is as ready as it was known to be
                self._ready = await asyncio.to_thread(self._deployment.count_ready)


def keep_signals() -> None:
    """Let SIGTERM reach Python again: Ray, once connected, would answer it by aborting the process."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
