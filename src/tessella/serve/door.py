"""What every request passes first: it is given an id, its key is looked at, its body is bounded, and it is counted."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .body import Body
from .keys import is_known
from .refusals import Refusal, failure
from .service import Service

OPEN_PATHS = ("/healthz", "/readyz", "/")  # for whoever restarts and routes, and the page, which asks for the key
SHARED = "/s/"  # in front of the numbers of shared results, which nobody guesses
LOG = logging.getLogger("tessella.serve")
GONE = 499  # for the log and the counters: the client left before there was an answer


class Door:
    """An ASGI application around another. An error that the other lets through is told in one neutral sentence."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self._service, self._keys = app, service, service.front.keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        number, start, status = f"req-{uuid.uuid4().hex[:20]}", time.perf_counter(), 0
        scope.setdefault("state", {})["number"] = number

        async def send_numbered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            await send(message)

        body = Body(scope, receive, self._service.front, self._service.room)
        try:
            refusal = self._refusal(scope)
            if refusal is None:
                await self.app(scope, body.receive, send_numbered)
            else:
                await _answer(refusal, scope, receive, send_numbered)
        except Exception:
            LOG.exception("%s failed", number)
            if not status:
                await _answer(failure(number), scope, receive, send_numbered)
        finally:
            body.leave()
            self._count(scope, number, status or GONE, time.perf_counter() - start)

    def _refusal(self, scope: Scope) -> Refusal | None:
        if not self._keys or scope["path"] in OPEN_PATHS or scope["path"].startswith(SHARED):
            return None
        kind, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and is_known(key.strip(), self._keys):
            return None
        what = "the API key is not one of this server's" if key else "this server needs an API key"
        return Refusal(
            401, f"{what}; send it as 'Authorization: Bearer KEY'.", "invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip

    def _count(self, scope: Scope, number: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self._service.metrics.requests.labels(route, status).inc()
        LOG.info("%s %s %s %d %.0f ms", number, scope["method"], route, status, seconds * 1000)


class OwnHost:
    """An ASGI application around another, for a server that has no keys because only this machine reaches it.

    A page of elsewhere whose name is made to mean this machine reaches it too, through a browser: it is told by the
    name that it asks for.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str]) -> None:
        self.app, self._names = app, frozenset(names)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            name = host_of("//" + Headers(scope=scope).get("host", ""))
            if name not in self._names:
                told = ", ".join(sorted(self._names))
                message = f"the host {name!r} is not this server's; without API keys it is {told}."
                refusal = Refusal(403, message, "unknown_host")
                await _answer(refusal, scope, receive, send)
                return
        await self.app(scope, receive, send)


def host_of(url: str) -> str:
    """The host that a URL names, in lower case; empty where there is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


async def _answer(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    response = JSONResponse(refusal.body(), refusal.status_code, refusal.headers)
    await response(scope, receive, send)
