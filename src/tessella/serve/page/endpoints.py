"""The page at `/`, what it asks of its server, and shared results."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from functools import partial

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from ...app.answering import FULL
from ...app.conversations import Turn
from ...core.errors import InputError
from ...core.pipeline import Pipeline, parse
from ..asking import observed
from ..budgets import read_budget
from ..contract import Event, Question, Sampling
from ..leaving import while_connected
from ..openai.streaming import EventStream
from ..refusals import Refusal
from ..service import Service
from .choices import method_choices, starters
from .columns import Column
from .comparing import Numbered, message, side_by_side, write_messages
from .markup import gone_markup, page_markup, shared_markup
from .requests import MAX_METHODS, CompareRequest, PictureRequest, ShareRequest
from .shelf import Shelf

LOG = logging.getLogger("tessella.serve")
MAX_ANSWER = 128  # tokens
RECENT = (32, 32_000_000)  # results that can still be shared: how many, and bytes of them
SHARED = (200, 200_000_000)
_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",  # beside the document's own, which cannot say this
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def build_page(service: Service) -> APIRouter:
    """The routes of the page. They are its own: the API is OpenAI's. Raises InputError for an unusable share folder."""
    router = APIRouter(include_in_schema=False)
    page = page_markup()
    recent, shared = Shelf(*RECENT), Shelf(*SHARED, service.front.share_dir)

    @router.get("/")
    async def show() -> Response:
        return HTMLResponse(page, headers=_HEADERS)

    @router.get("/page/methods")
    def methods() -> Response:  # in a thread: the first time every method is imported
        choices = method_choices(service.answerer.facts().get("methods", {}))
        limits = {"bytes": service.front.max_bytes, "methods": MAX_METHODS}
        return JSONResponse({"model": service.model, "methods": choices, "chosen": starters(choices), "limits": limits})

    @router.post("/page/picture")
    async def look(body: PictureRequest) -> Response:
        text, [picture] = await service.reader.read(_turns(body.picture, "?"))
        tokens = await service.reader.count_visual(text, [picture])
        return JSONResponse({"width": picture.width, "height": picture.height, "visual_tokens": tokens})

    @router.post("/page/compare")
    async def compare(body: CompareRequest, request: Request) -> Response:
        return await while_connected(request.receive, _compare(service, body, request.state.number, recent))

    @router.post("/page/share")
    async def share(body: ShareRequest) -> Response:
        found = recent.find(body.result)
        if found is None:
            raise Refusal(404, "this result is not held any more; ask again, then share it.", "gone", "result")
        shared.put(found, body.result)
        until = "" if service.front.share_dir else " or until the server ends"
        return JSONResponse(
            {"path": f"/s/{body.result}", "until": f"It is kept until {shared.most} newer ones are shared{until}."}
        )

    @router.get("/s/{number}")
    async def show_shared(number: str) -> Response:
        found = shared.find(number)
        return HTMLResponse(found or gone_markup(shared.most), 200 if found else 404, headers=_HEADERS)

    return router


async def _compare(service: Service, body: CompareRequest, request: str, recent: Shelf) -> Response:
    """The stream of all answers. What is wrong with the picture or the question is raised before it begins."""
    words = body.question.strip()
    if not words:
        raise InputError("the question is empty; write what is to be answered.")
    pipelines = [parse(FULL), *(_pipeline(service, method, body.keep) for method in body.methods)]
    names = [str(pipeline) for pipeline in pipelines]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"{twice!r} is there twice; the full model answers beside the methods in any case.")
    if service.front.log_prompts:
        LOG.info("%s asks %r", request, words)
    text, pictures = await service.reader.read(_turns(body.picture, words))
    sampling = Sampling(max_tokens=min(MAX_ANSWER, service.front.max_tokens))
    sources = [
        _ask(service, pipeline, Question(f"{request}-{n}", text, pictures, name, None, sampling, show=True))
        for n, (pipeline, name) in enumerate(zip(pipelines, names, strict=True))
    ]
    events = side_by_side(sources)
    columns = [Column("full model"), *map(Column, names[1:])]
    texts = _write(columns, events, request, partial(shared_markup, words, service.model, columns), recent)
    return EventStream(texts, events, {}, service.front.reader_s, service.metrics)


async def _ask(service: Service, pipeline: Pipeline, question: Question) -> AsyncGenerator[Event, None]:
    """The events of one column. Raises BudgetError where it would keep more than the server lets it."""
    await service.reader.check(pipeline, question.text, question.pictures)
    async with aclosing(observed(service, question, time.perf_counter())) as events:
        async for event in events:
            yield event


async def _write(
    columns: Sequence[Column],
    events: AsyncIterator[Numbered],
    request: str,
    make_page: Callable[[], str],
    recent: Shelf,
) -> AsyncGenerator[str, None]:
    """The messages of all columns, then the number under which the result is held until it is shared."""
    async for text in write_messages(columns, events, request):
        yield text
    page = await asyncio.to_thread(make_page)
    yield message({"result": recent.put(page.encode("utf-8"))})


def _pipeline(service: Service, method: str, keep: int | float | str) -> Pipeline:
    """A method with the keep where it takes one and has none of its own."""
    parts = parse(method, recipes=False).parts
    takes = any(part.method.card.takes_keep and part.budget is None for part in parts)
    return read_budget(service.front, method, keep if takes else None)


def _turns(picture: str, words: str) -> list[Turn]:
    content = [{"type": "image", "url": picture}, {"type": "text", "text": words}]
    return [{"role": "user", "content": content}]
