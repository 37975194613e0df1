"""From a chat request to a question."""

from __future__ import annotations

import logging
from typing import Any

from ...app.conversations import Turn
from ...core.errors import InputError
from ...core.pipeline import Pipeline
from ..budgets import read_budget
from ..contract import Question, Sampling
from ..refusals import Refusal
from ..service import Service
from ..settings import FrontSettings
from .requests import ChatRequest, ImagePart, Message

LOG = logging.getLogger("tessella.serve")


async def read_question(service: Service, body: ChatRequest, number: str) -> Question:
    """The question that a request asks, under an id. Raises Refusal for limits, and what its readers raise."""
    front = service.front
    sampling = _read_sampling(body, front, service.answerer.facts())
    pipeline = _read_pipeline(body, front)
    if body.messages[-1].role == "assistant":
        raise InputError("the last message is the assistant's own; end with the user's.")
    turns = [_turn(message) for message in body.messages]
    if front.log_prompts:
        told = [(turn["role"], [part.get("text", "a picture") for part in turn["content"]]) for turn in turns]
        LOG.info("%s asks %r", number, told)
    text, pictures = await service.reader.read(turns)
    await service.reader.check(pipeline, text, pictures)
    return Question(
        number=number,
        text=text,
        pictures=pictures,
        pipeline=str(pipeline),
        positions=body.tessella.positions if body.tessella else None,
        sampling=sampling,
        streamed=bool(body.stream),
    )


def _read_pipeline(body: ChatRequest, front: FrontSettings) -> Pipeline:
    wish = body.tessella
    return read_budget(front, wish.method, wish.keep, wish.scope) if wish else read_budget(front)


def _read_sampling(body: ChatRequest, front: FrontSettings, facts: dict[str, Any]) -> Sampling:
    """How to write the answer. What is not given is the model's own, or the contract's default."""
    if body.max_tokens and body.max_completion_tokens and body.max_tokens != body.max_completion_tokens:
        raise _refuse("max_tokens", "is another number than max_completion_tokens; give one of them")
    if body.top_logprobs is not None and not body.logprobs:
        raise _refuse("top_logprobs", "was given without logprobs; set logprobs to true")
    if body.stream_options is not None and not body.stream:
        raise _refuse("stream_options", "was given without stream; set stream to true")
    default = Sampling()
    longest = body.max_completion_tokens or body.max_tokens or min(default.max_tokens, front.max_tokens)
    if longest > front.max_tokens:
        name = "max_completion_tokens" if body.max_completion_tokens else "max_tokens"
        raise _refuse(name, f"may be at most {front.max_tokens:,} on this server; got {longest:,}")
    if (body.n or 1) > front.max_n:
        raise _refuse("n", f"may be at most {front.max_n} on this server; got {body.n}")
    return Sampling(
        max_tokens=longest,
        temperature=facts.get("temperature", default.temperature) if body.temperature is None else body.temperature,
        top_p=facts.get("top_p", default.top_p) if body.top_p is None else body.top_p,
        seed=body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        n=body.n or 1,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
    )


def _refuse(name: str, what: str) -> Refusal:
    return Refusal(400, f"{name} {what}.", "invalid_parameter", name)


def _turn(message: Message) -> Turn:
    role = "system" if message.role == "developer" else message.role  # the name that chat templates know
    content: list[dict[str, Any]] = []
    for part in [message.content] if isinstance(message.content, str) else message.content:
        if isinstance(part, ImagePart):
            content.append({"type": "image", "url": part.image_url.url})
        else:
            content.append({"type": "text", "text": part if isinstance(part, str) else part.text})
    return {"role": role, "content": content}
