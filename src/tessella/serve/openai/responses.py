"""What a client is sent: completions, chunks of them, models and errors."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel
from typing_extensions import TypedDict  # the one of typing is not pydantic's before Python 3.12


class TopLogprob(BaseModel):
    """A token that could have been written, and its log-probability; -9999 stands for none at all."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(BaseModel):
    content: list[TokenLogprob]
    refusal: None = None


class ReductionUsage(BaseModel):
    """What became of a prompt's visual tokens; `mean_keep_ratio` is the share over the model's layers.

    `ms` are milliseconds of queue, encode, score, select, prefill and decode; `cached` says what was not computed anew.
    """

    visual_tokens: int
    visual_tokens_kept: int
    mean_keep_ratio: float
    ms: dict[str, float]
    cached: Literal["features", "prompt"] | None
    notes: list[str]


class Usage(BaseModel):
    """`prompt_tokens` are those of the prompt before any were dropped."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    tessella: ReductionUsage


class Answer(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Choice(BaseModel):
    index: int
    message: Answer
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage


class Delta(TypedDict, total=False):
    role: Literal["assistant"]
    content: str


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"] | None = None


class Chunk(BaseModel):
    """An event of a stream. The last one has the usage and no choices, where the request asks for it."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["tessella"] = "tessella"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Error(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: Error


ERRORS: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "The request cannot be answered; the message says why."},
    "5XX": {"model": ErrorBody, "description": "The server cannot answer now."},
}
