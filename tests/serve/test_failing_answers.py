"""What a client is told when the worker itself fails, before an answer and in the middle of a stream."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from tessella.serve.application import build_application
from tessella.serve.contract import Busy, Event, Late, Lost, Piece, Question, Reading, Stopping
from tessella.serve.openai.streaming import EventStream
from tessella.serve.service import Service
from tessella.serve.settings import FrontSettings

BODY = {"model": "mini", "messages": [{"role": "user", "content": "what color?"}]}


class Failing:
    """An answerer that fails, after a reading and a piece where it is to."""

    def __init__(self, error: Exception, is_late: bool = False) -> None:
        self._error, self._is_late = error, is_late
        self.closed = 0

    async def answer(self, question: Question) -> AsyncGenerator[Event, None]:
        try:
            if self._is_late:
                yield Reading(5, 0, 0, 1.0, {})
                yield Piece(0, "red")
            raise self._error
        finally:
            self.closed += 1

    def facts(self) -> dict[str, Any]:
        return {"model": "mini", "family": "llava", "ready": True, "waiting": 0, "running": 0}

    async def stop(self, seconds: float) -> None: ...


def post(answerer: Failing, processor: Any, **fields: Any) -> httpx.Response:
    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(build_application(answerer, processor, FrontSettings()))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/v1/chat/completions", json={**BODY, **fields})

    return asyncio.run(send())


@pytest.mark.parametrize(
    "error, status, code, wait",
    [
        (Busy("the queue is full.", retry_after=3), 429, "busy", "3"),
        (Late("the answer was not complete."), 504, "timeout", None),
        (Stopping("the server is shutting down."), 503, "stopping", "5"),
        (Lost("what was answering has died."), 503, "lost", "5"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_a_worker_refuses(
    mini: Any, error: Exception, status: int, code: str, wait: str | None, stream: bool
) -> None:
    answerer = Failing(error)
    response = post(answerer, mini[1], stream=stream)
    assert (response.status_code, response.headers.get("retry-after")) == (status, wait)
    assert response.json()["error"]["code"] == code
    assert response.json()["error"]["message"] == str(error)
    assert answerer.closed == 1


def test_a_mistake_of_ours_is_in_the_log_alone(
    mini: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("tessella.serve"), "propagate", True)
    response = post(Failing(ZeroDivisionError("secret")), mini[1])
    number = response.headers["x-request-id"]
    assert response.status_code == 500
    assert response.json()["error"] == {
        "message": f"the server failed on this request; its log has the reason under {number}.",
        "type": "server_error",
        "param": None,
        "code": "server_error",
    }
    assert "secret" in caplog.text
    assert number in caplog.text


@pytest.mark.parametrize("error, code", [(Late("too late."), "timeout"), (ZeroDivisionError("secret"), "server_error")])
def test_after_a_stream_began_the_error_is_its_last_event(mini: Any, error: Exception, code: str) -> None:
    answerer = Failing(error, is_late=True)
    response = post(answerer, mini[1], stream=True)
    events = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]
    assert response.status_code == 200
    assert events[1]["choices"][0]["delta"] == {"content": "red"}
    assert events[-1]["error"]["code"] == code
    assert "secret" not in response.text
    assert answerer.closed == 1


def test_a_reader_that_takes_nothing_is_let_go(mini: Any) -> None:
    service = Service.of(Failing(Late("")), mini[1], FrontSettings())
    closed = []

    async def texts() -> AsyncGenerator[str, None]:
        while True:
            yield "data: {}\n\n"

    async def events() -> AsyncGenerator[Event, None]:
        try:
            yield Reading(5, 0, 0, 1.0, {})
        finally:
            closed.append(True)

    async def never(*_: Any) -> Any:
        await asyncio.sleep(60)

    async def stream() -> None:
        asked = events()
        await anext(asked)
        await EventStream(texts(), asked, {}, 0.05, service.metrics)({"type": "http"}, never, never)
        assert closed == [True]  # while somebody still holds them, so not by the garbage collector

    asyncio.run(stream())
    assert b"tessella_cancelled_total 1.0" in service.metrics.text()
