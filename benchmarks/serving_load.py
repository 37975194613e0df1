"""Clients of a server: requests with pictures, and how long each waits for its tokens."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

PATCHES = 8  # colours a side of a picture


@dataclass(frozen=True)
class Answered:
    """A request's times, as its client sees them: to the first text, and from there to the end for each token."""

    first_s: float
    token_s: float
    tokens: int
    visual_tokens_kept: int


@dataclass(frozen=True)
class Phase:
    """Requests that clients sent, each its next when the last was answered, and the time until all were answered."""

    answers: list[Answered]
    seconds: float


def draw_picture(seed: int, side: int) -> str:
    """A data URL of patches of colour that flow into each other; another seed is another picture."""
    colours = random.Random(seed).randbytes(3 * PATCHES**2)
    small = Image.frombytes("RGB", (PATCHES, PATCHES), colours)
    out = io.BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def write_body(model: str, picture: str, text: str, tokens: int, reduction: dict[str, Any]) -> dict[str, Any]:
    """A streamed, greedy request that asks for so many tokens."""
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": text}]
    return {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "tessella": reduction,
    }


async def send_all(address: str, bodies: Iterable[dict[str, Any]], clients: int) -> Phase:
    """Send every request, with so many under way at once."""
    todo: Iterator[dict[str, Any]] = iter(bodies)
    answers: list[Answered] = []
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=None, limits=limits, trust_env=False) as http:

        async def ask_on() -> None:
            for body in todo:
                answers.append(await ask(http, body))

        start = time.perf_counter()
        await asyncio.gather(*(ask_on() for _ in range(clients)))
        return Phase(answers, time.perf_counter() - start)


async def ask(http: httpx.AsyncClient, body: dict[str, Any]) -> Answered:
    """Send one request and read its stream. Raises RuntimeError for what is no complete answer."""
    start = time.perf_counter()
    first = last = usage = None
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError((await response.aread()).decode())
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise RuntimeError(chunk["error"]["message"])
            usage = chunk.get("usage") or usage
            if first is None and any(choice["delta"].get("content") for choice in chunk["choices"]):
                first = time.perf_counter()
            if any(choice["finish_reason"] for choice in chunk["choices"]):
                last = time.perf_counter()
    if usage is None or last is None:
        raise RuntimeError("the stream ended early")
    first, tokens = first or last, usage["completion_tokens"]
    return Answered(first - start, (last - first) / max(tokens - 1, 1), tokens, usage["tessella"]["visual_tokens_kept"])
