"""What a client is told when something is wrong: OpenAI's error shape, with a status, a kind and one sentence."""

from __future__ import annotations

from typing import Any

from fastapi import HTTPException

from ..core.errors import BudgetError, MethodError, TessellaError, UnknownMethodError, UnsupportedError
from .contract import Busy, Late, Lost, Stopping

RETRY_S = 5  # after which to ask again, where a server or a worker went away and another takes its place

_BY_ERROR: tuple[tuple[type[TessellaError], int, str, str | None], ...] = (
    (UnknownMethodError, 404, "unknown_method", "tessella.method"),
    (UnsupportedError, 400, "unsupported_method", "tessella.method"),
    (BudgetError, 400, "invalid_budget", "tessella.keep"),
    (MethodError, 400, "invalid_method", "tessella.method"),
    (Busy, 429, "busy", None),
    (Late, 504, "timeout", None),
    (Stopping, 503, "stopping", None),
    (Lost, 503, "lost", None),
    (TessellaError, 400, "invalid_input", None),
)


class Refusal(HTTPException):
    """An answer that is an error. `param` is the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.code, self.param = code, param

    def body(self) -> dict[str, Any]:
        """`{"error": {"message", "type", "param", "code"}}`, as text that can be sent whatever a client sent."""
        kind = "rate_limit_error" if self.status_code == 429 else "invalid_request_error"
        error = {
            "message": " ".join(sendable(self.detail).split()),
            "type": "server_error" if self.status_code >= 500 else kind,
            "param": None if self.param is None else sendable(self.param),
            "code": self.code,
        }
        return {"error": error}


def refusal_of(error: TessellaError) -> Refusal:
    """The refusal that tells a client of an error of ours."""
    status, code, param = next((s, c, p) for kind, s, c, p in _BY_ERROR if isinstance(error, kind))
    wait = error.retry_after if isinstance(error, Busy) else RETRY_S if isinstance(error, Stopping | Lost) else None
    return Refusal(status, str(error), code, param, None if wait is None else {"Retry-After": str(wait)})


def failure(number: str) -> Refusal:
    """What a client is told of an error of which it must not know more."""
    return Refusal(500, f"the server failed on this request; its log has the reason under {number}.", "server_error")


def sendable(text: str) -> str:
    """A text without the halves of surrogate pairs that a client's JSON may hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
