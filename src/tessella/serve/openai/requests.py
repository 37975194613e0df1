"""A chat request: what is honoured, what is harmless, and what would change the answer and is refused.

A field that is null is one that was not given.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, WithJsonSchema

from ...core.budget import Scope
from ...core.cards import Positions

MAX_MESSAGES = 1000
MAX_PIPELINE = 500  # characters


class Strict(BaseModel):
    """Takes the fields that it names, each of its own type."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ImageUrl(Strict):
    """Where a picture is. Every picture is read in full: for fewer tokens there is `tessella.keep`."""

    url: str
    detail: Literal["auto", "high"] | None = None


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class SystemMessage(Strict):
    role: Literal["system", "developer"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]


class UserMessage(Strict):
    role: Literal["user"]
    content: str | Annotated[list[Part], Field(min_length=1)]


class AssistantMessage(Strict):
    """An earlier answer, as it was given; of its fields that are no text, only empty ones."""

    role: Literal["assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    refusal: None = None
    tool_calls: None = None
    function_call: None = None
    audio: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]

Keep = Annotated[
    StrictInt | StrictFloat | StrictStr,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                {"type": "string", "pattern": r"^\d{1,6}(/\d{1,6}|\.\d{1,9})?$"},
            ],
            "description": "Visual tokens to keep: a number for each picture (64), or a fraction (0.25, '1/9'; '1.0' "
            "is all, 1 is one token).",
        }
    ),
]


class Reduction(Strict):
    """The visual budget of a request; what is left out is as the server's command line says."""

    method: Annotated[str, Field(min_length=1, max_length=MAX_PIPELINE)] | None = Field(
        None, description="A method or a pipeline, such as 'hiprune' or 'divprune:0.5 | fastv@2:0.5'."
    )
    keep: Keep | None = None
    scope: Scope | None = Field(None, description="What `keep` counts over.")
    positions: Positions | None = Field(None, description="Whether tokens that are kept keep their places.")


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class TextFormat(Strict):
    type: Literal["text"]


class NotHonoured(Strict):
    """Parameters of OpenAI's that would change the answer, or where it is kept: only what changes nothing is taken."""

    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none"] | None = None
    parallel_tool_calls: Literal[False] | None = None
    functions: Annotated[list[Any], Field(max_length=0)] | None = None
    function_call: Literal["none"] | None = None
    response_format: TextFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None
    reasoning_effort: Literal["none"] | None = None
    verbosity: None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    service_tier: Literal["auto", "default"] | None = None
    store: Literal[False] | None = None


class ChatRequest(NotHonoured):
    """A conversation to go on with.

    Without `temperature` the model's own generation settings decide, as in transformers: greedy unless they sample.
    """

    model: str
    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)]
        | None
    ) = None
    n: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tessella: Reduction | None = None

    # of no consequence here
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
