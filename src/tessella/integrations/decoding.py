"""How answers are decoded: a task's `generation_kwargs` as arguments of `generate`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core.errors import InputError

MAX_NEW_TOKENS = 1024  # where neither task nor command line says
SAMPLING = ("temperature", "top_p", "top_k")
ALWAYS = ("num_beams", "repetition_penalty", "length_penalty", "min_new_tokens", "no_repeat_ngram_size")
HONOURED = ("max_new_tokens", "until", "do_sample", *SAMPLING, *ALWAYS)
ELSEWHERE = ("image_aspect_ratio", "max_agentic_steps")  # said to LLaVA's own picture code, and to lmms-eval itself
FILLED_IN = "\n\n"  # lmms-eval's, into tasks that name no end; its own models write on behind it


@dataclass(frozen=True)
class Decoding:
    """Arguments of `generate`, and the texts in front of which an answer ends."""

    options: dict[str, Any]
    until: tuple[str, ...] = field(default=())

    @property
    def max_new_tokens(self) -> int:
        return int(self.options["max_new_tokens"])

    def cut(self, answer: str) -> str:
        """An answer up to the first of `until` in it, without spaces around.

        >>> Decoding({}, ("ASSISTANT:", "Q:")).cut(" red Q: and? ASSISTANT: ")
        'red'
        """
        return answer[: min((answer.find(end) for end in self.until if end in answer), default=len(answer))].strip()


def read_decoding(given: Mapping[str, Any]) -> Decoding:
    """Read a task's settings: greedy, unless it sets a temperature above 0 or asks for samples.

    Raises InputError for a setting that is not honoured and for values out of range, naming it.
    """
    asked = {name: value for name, value in given.items() if value is not None and name not in ELSEWHERE}
    for name in asked:
        if name not in HONOURED:
            close = difflib.get_close_matches(name, HONOURED, n=1)
            hint = f" Closest: {close[0]!r}." if close else ""
            raise InputError(f"generation_kwargs has {name!r}; honoured are {', '.join(HONOURED)}.{hint}")
    most = asked.get("max_new_tokens", MAX_NEW_TOKENS)
    if not isinstance(most, int) or most < 1:
        raise InputError(f"max_new_tokens must be a whole number from 1 on; got {most!r}.")
    temperature = asked.get("temperature", 1.0 if asked.get("do_sample") else 0.0)
    if not isinstance(temperature, (int, float)) or temperature < 0:
        raise InputError(f"temperature must be a number from 0 on; got {temperature!r}.")
    samples = temperature > 0 and asked.get("do_sample", True)
    options: dict[str, Any] = {"max_new_tokens": most, "do_sample": bool(samples), "num_beams": 1}
    options |= {name: asked.get(name) if samples else None for name in SAMPLING}
    options |= {name: asked[name] for name in ALWAYS if name in asked}
    if samples:
        options["temperature"] = float(temperature)
    until = asked.get("until", ())
    ends = (until,) if isinstance(until, str) else tuple(until)
    return Decoding(options, tuple(end for end in ends if end and end != FILLED_IN))
