"""What the endpoints ask of whatever runs the model, here or on a cluster: questions in, events out.

An answerer yields for each question one `Reading`, then the `Piece`s of its choices in any order between choices, then
one `Closing`. All of it can be pickled.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from PIL import Image

from ..core.errors import TessellaError
from ..pictures.shown import Shown

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How an answer is written. `temperature` 0 is greedy; `seed` makes sampling repeatable.

    `stop` are texts in front of which an answer ends. `logprobs` is how many of the likeliest tokens are reported
    beside the one written, at each place; 0 for that one alone, None for nothing.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    logprobs: int | None = None


@dataclass(frozen=True)
class Question:
    """A checked request: a chat text with one placeholder for each of its pictures, in order.

    `pipeline` is a pipeline's text with its budget in it; `positions` as in `tessella.reduce`.
    """

    number: str
    text: str
    pictures: tuple[Image.Image, ...] = field(default=(), repr=False)
    pipeline: str = "none"
    positions: Literal["original", "compact"] | None = None
    sampling: Sampling = Sampling()
    show: bool = False  # whether the reading is to say what became of each patch
    streamed: bool = True  # whether pieces are wanted as they come; otherwise they may be held back until the closing


@dataclass(frozen=True)
class Reading:
    """The prompt was read: its tokens as the processor made them, its visual tokens and those that were kept.

    `ms` has queue, encode, score, select and prefill, in milliseconds of the batch that this prompt was read in.
    `cached` says what was not computed anew: "features" (the encoder was skipped) or "prompt" (the reduced picture's
    cache was taken over).
    """

    prompt_tokens: int
    visual_tokens: int
    visual_tokens_kept: int
    mean_keep_ratio: float
    ms: dict[str, float]
    cached: Literal["features", "prompt"] | None = None
    notes: tuple[str, ...] = ()
    shown: Shown | None = None


@dataclass(frozen=True)
class TokenLogprob:
    """A token, its bytes and its log-probability before temperature and top-p; `top` are the likeliest at its place."""

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Text that was added to a choice; `finish` on the last one of a choice."""

    choice: int
    text: str
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None


@dataclass(frozen=True)
class Closing:
    """The answer is complete: tokens written over all choices, and milliseconds of decoding."""

    completion_tokens: int
    decode_ms: float


Event = Reading | Piece | Closing


class Answerer(Protocol):
    """Whatever runs the model. `aclose()` on the iterator cancels the question."""

    def answer(self, question: Question) -> AsyncIterator[Event]:
        """Events of a question. It may raise Busy, Late, Stopping, Lost, or what `tessella.reduce` raises."""

    def facts(self) -> dict[str, Any]:
        """What `/readyz` and the page show: model, family, whether it is ready, questions waiting and running.

        Under `methods`, for the page alone, why the model cannot carry a method, by the ids of those that it cannot.
        """

    async def stop(self, seconds: float) -> None:
        """Take no more questions, finish what runs for at most so long, then cancel the rest."""


class Busy(TessellaError, RuntimeError):
    """The queue is full; `retry_after` is in seconds."""

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Late(TessellaError, TimeoutError):
    """A question waited, or ran, for longer than is allowed."""


class Stopping(TessellaError, RuntimeError):
    """The server is shutting down."""


class Lost(TessellaError, RuntimeError):
    """What was answering has died, and the question could not be asked again."""
