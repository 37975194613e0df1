"""Whether the server lives, whether it takes questions, and its counters."""

from __future__ import annotations

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from .service import Service


def build_health(service: Service) -> APIRouter:
    """The routes `/healthz`, `/readyz` and `/metrics`."""
    router = APIRouter()

    @router.get("/healthz", summary="Whether the server lives")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @router.get(
        "/readyz",
        summary="Whether the server takes questions",
        responses={503: {"description": "It is loading its model, or stopping."}},
    )
    async def readyz() -> JSONResponse:
        facts = {name: fact for name, fact in service.answerer.facts().items() if name != "methods"}
        return JSONResponse(facts, 200 if facts["ready"] else 503)

    @router.get(
        "/metrics",
        summary="Counters for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router
