"""The server's application: every route, and every mistake in one shape."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from .. import __version__
from ..core.errors import TessellaError
from .budgets import check_budgets
from .contract import Answerer
from .door import GONE, Door
from .health import build_health
from .leaving import ClientGone
from .metrics import Metrics
from .openai.chat import build_chat
from .openai.mistakes import refusal_of_mistakes
from .page import build_page
from .refusals import Refusal, refusal_of
from .service import Service
from .settings import FrontSettings


def build_application(answerer: Answerer, processor: Any, front: FrontSettings) -> FastAPI:
    """The application that asks `answerer`, whose prompts are written by `processor`.

    Raises InputError for settings that allow nothing, and what `tessella.parse` does for a default method or keep.
    """
    front.check()
    check_budgets(front)
    service = Service.of(answerer, processor, front)
    app = FastAPI(
        title="Tessella",
        version=__version__,
        summary="OpenAI-compatible chat on a fraction of the visual tokens",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(Door, service=service)
    app.include_router(build_chat(service))
    app.include_router(build_health(service))
    app.include_router(build_page(service))
    _tell_mistakes(app, service.metrics)
    return app


def _tell_mistakes(app: FastAPI, metrics: Metrics) -> None:
    """Errors that endpoints raise become answers in OpenAI's shape."""

    def answer(refusal: Refusal) -> Response:
        metrics.rejected.labels(refusal.code or str(refusal.status_code)).inc()
        return JSONResponse(refusal.body(), refusal.status_code, refusal.headers)

    @app.exception_handler(RequestValidationError)
    async def mistaken(_: Request, error: RequestValidationError) -> Response:
        return answer(refusal_of_mistakes(error.errors(), error.body))

    @app.exception_handler(TessellaError)
    async def refused(_: Request, error: TessellaError) -> Response:
        return answer(refusal_of(error))

    @app.exception_handler(StarletteHTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        if isinstance(error, Refusal):
            return answer(error)
        told = {
            400: "the body is no JSON that can be read: it is not UTF-8 text, or is nested too deeply.",
            404: f"there is nothing at {request.url.path[:80]!r}.",
            405: f"{request.url.path[:80]!r} does not take {request.method}.",
        }
        headers = dict(error.headers or {})
        return answer(Refusal(error.status_code, told.get(error.status_code, str(error.detail)), headers=headers))

    @app.exception_handler(ClientGone)
    async def gone(_: Request, __: ClientGone) -> Response:
        metrics.cancelled.inc()
        return Response(status_code=GONE)
