"""What answers while the model is being loaded."""

from __future__ import annotations

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from .refusals import RETRY_S, Refusal


class Switch:
    """An ASGI application that says it is not ready, until `app` is set to the one that is."""

    def __init__(self) -> None:
        self.app: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.app is not None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await _answer(scope["path"])(scope, receive, send)


def _answer(path: str) -> JSONResponse:
    if path == "/healthz":
        return JSONResponse({"status": "alive"})
    if path == "/readyz":
        return JSONResponse({"ready": False}, 503)
    refusal = Refusal(503, "the model is being loaded.", "loading", headers={"Retry-After": str(RETRY_S)})
    return JSONResponse(refusal.body(), refusal.status_code, refusal.headers)
