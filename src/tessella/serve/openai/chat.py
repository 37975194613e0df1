"""`POST /v1/chat/completions` and `GET /v1/models`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import aclosing

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from ..asking import observed
from ..contract import Event, Reading
from ..leaving import while_connected
from ..refusals import Refusal
from ..service import Service
from .reading import read_question
from .requests import ChatRequest
from .responses import ERRORS, Completion, Model, ModelList
from .streaming import EventStream, write_events
from .writing import Envelope, headers_of, write_chunks, write_whole

_STREAM = {"text/event-stream": {"schema": {"type": "string"}}}


def build_chat(service: Service) -> APIRouter:
    """The routes of OpenAI's chat API."""
    router = APIRouter(prefix="/v1", responses=ERRORS)
    since = int(time.time())

    @router.post(
        "/chat/completions",
        summary="Go on with a conversation",
        response_model=Completion,
        responses={200: {"description": "A completion, or with `stream` a stream of its chunks.", "content": _STREAM}},
    )
    async def complete(body: ChatRequest, request: Request) -> Response:
        return await while_connected(request.receive, _answer(service, body, request.state.number))

    @router.get("/models", summary="The model that answers")
    async def models() -> ModelList:
        return ModelList(data=[Model(id=service.model, created=since)])

    @router.get("/models/{name:path}", summary="One model")
    async def model(name: str) -> Model:
        if name != service.model:
            raise unknown_model(name, service.model)
        return Model(id=service.model, created=since)

    return router


async def _answer(service: Service, body: ChatRequest, number: str) -> Response:
    """The response, once the prompt was read: by then it is known whether there is an answer, and what was kept."""
    start = time.perf_counter()
    if body.model != service.model:
        raise unknown_model(body.model, service.model)
    question = await read_question(service, body, number)
    events = observed(service, question, start)
    envelope = Envelope(service.model)
    n, wants_logprobs = question.sampling.n, question.sampling.logprobs is not None
    if not body.stream:
        async with aclosing(events):
            reading = await _first(events)
            completion = await write_whole(envelope, reading, events, n, wants_logprobs)
            return JSONResponse(completion.model_dump(mode="json"), headers=headers_of(reading))
    reading = await _first(events)
    wants_usage = bool(body.stream_options and body.stream_options.include_usage)
    chunks = write_chunks(envelope, reading, events, n, wants_usage)
    texts = write_events(chunks, wants_usage, number)
    return EventStream(texts, events, headers_of(reading), service.front.reader_s, service.metrics)


async def _first(events: AsyncIterator[Event]) -> Reading:
    reading = await anext(events)
    assert isinstance(reading, Reading), "an answerer says first that it has read the prompt"
    return reading


def unknown_model(name: str, served: str) -> Refusal:
    return Refusal(
        404, f"there is no model {name[:80]!r} here; this server has {served!r}.", "model_not_found", "model"
    )
