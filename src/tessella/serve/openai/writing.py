"""From an answerer's events to what a client is sent, whole or as a stream."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

from ... import __version__
from ..contract import Closing, Event, Piece, Reading, TokenLogprob
from .responses import (
    Answer,
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    Delta,
    Logprobs,
    ReductionUsage,
    TopLogprob,
    Usage,
)
from .responses import TokenLogprob as WrittenLogprob

FINGERPRINT = f"tessella-{__version__}"
_LEAST = -9999.0  # what stands for a probability of none
_PARTS = ("queue", "encode", "score", "select", "prefill")


@dataclass(frozen=True)
class Envelope:
    """What all that is sent for one request has in common."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk(self, choices: list[ChunkChoice], usage: Usage | None = None) -> Chunk:
        return Chunk(
            id=self.id,
            created=self.created,
            model=self.model,
            system_fingerprint=FINGERPRINT,
            choices=choices,
            usage=usage,
        )


def headers_of(reading: Reading) -> dict[str, str]:
    """What is known once the prompt was read, as response headers; milliseconds of each part."""
    out = {
        "x-tessella-visual-tokens": str(reading.visual_tokens),
        "x-tessella-visual-tokens-kept": str(reading.visual_tokens_kept),
    }
    return out | {f"x-tessella-ms-{part}": f"{reading.ms.get(part, 0.0):.3f}" for part in _PARTS}


async def write_whole(
    envelope: Envelope, reading: Reading, events: AsyncIterator[Event], n: int, wants_logprobs: bool
) -> Completion:
    """The completion of all events that follow a reading."""
    choices = [Choice(index=i, message=Answer(content=""), logprobs=None, finish_reason="stop") for i in range(n)]
    tokens: list[list[TokenLogprob]] = [[] for _ in choices]
    closing = Closing(0, 0.0)
    async for event in events:
        if isinstance(event, Piece):
            choice = choices[event.choice]
            choice.message.content += event.text
            tokens[event.choice] += event.logprobs
            choice.finish_reason = event.finish or choice.finish_reason
        elif isinstance(event, Closing):
            closing = event
    if wants_logprobs:
        for choice, own in zip(choices, tokens, strict=True):
            choice.logprobs = _logprobs(own)
    return Completion(
        id=envelope.id,
        created=envelope.created,
        model=envelope.model,
        system_fingerprint=FINGERPRINT,
        choices=choices,
        usage=_usage(reading, closing),
    )


async def write_chunks(
    envelope: Envelope, reading: Reading, events: AsyncIterator[Event], n: int, wants_usage: bool
) -> AsyncIterator[Chunk]:
    """Chunks of all events that follow a reading."""
    for index in range(n):
        yield envelope.chunk([ChunkChoice(index=index, delta=Delta(role="assistant", content=""))])
    async for event in events:
        if isinstance(event, Piece):
            if event.text or event.logprobs:
                logprobs = _logprobs(event.logprobs) if event.logprobs else None
                delta = Delta(content=event.text)
                yield envelope.chunk([ChunkChoice(index=event.choice, delta=delta, logprobs=logprobs)])
            if event.finish:
                choice = ChunkChoice(index=event.choice, delta=Delta(), finish_reason=event.finish)
                yield envelope.chunk([choice])
        elif isinstance(event, Closing) and wants_usage:
            yield envelope.chunk([], _usage(reading, event))


def _usage(reading: Reading, closing: Closing) -> Usage:
    return Usage(
        prompt_tokens=reading.prompt_tokens,
        completion_tokens=closing.completion_tokens,
        total_tokens=reading.prompt_tokens + closing.completion_tokens,
        tessella=ReductionUsage(
            visual_tokens=reading.visual_tokens,
            visual_tokens_kept=reading.visual_tokens_kept,
            mean_keep_ratio=reading.mean_keep_ratio,
            ms={**{part: round(ms, 3) for part, ms in reading.ms.items()}, "decode": round(closing.decode_ms, 3)},
            cached=reading.cached,
            notes=list(reading.notes),
        ),
    )


def _logprobs(tokens: Iterable[TokenLogprob]) -> Logprobs:
    return Logprobs(
        content=[
            WrittenLogprob(**_plain(t), top_logprobs=[TopLogprob(**_plain(other)) for other in t.top]) for t in tokens
        ]
    )


def _plain(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.token, "logprob": max(token.logprob, _LEAST), "bytes": list(token.bytes)}
