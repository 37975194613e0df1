"""The text of an answer as its tokens come: whole characters, ended in front of a stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"  # what a tokenizer makes of bytes that are no character yet
_CONTEXT = 6  # tokens decoded before the new ones: spaces depend on what stands in front


class Text:
    """Gives out text once no further token can change it."""

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer, self._stops = tokenizer, tuple(stops)
        self._tokens: list[int] = []
        self._first = self._read = 0  # tokens from `first` on are decoded, those before `read` have been given out
        self._held = ""  # may be the beginning of a stop
        self._is_first = True
        self.is_stopped = False

    def add(self, token: int) -> str:
        """The text that is certain after a token."""
        self._tokens.append(token)
        before, now = self._decode(self._first, self._read), self._decode(self._first, len(self._tokens))
        if now.endswith(_BROKEN) or not now.startswith(before):
            return ""
        self._first, self._read = max(self._first, len(self._tokens) - _CONTEXT), len(self._tokens)
        if self._first and self._decode(self._first, self._read) == "":
            self._first = max(0, self._first - _CONTEXT)
        return self._without_stop(now[len(before) :])

    def end(self) -> str:
        """What is left when the answer is complete."""
        if self.is_stopped:
            return ""
        before, now = self._decode(self._first, self._read), self._decode(self._first, len(self._tokens))
        left = self._without_stop(now[len(before) :]) if len(now) > len(before) else ""
        held, self._held = self._held, ""
        return left + held if not self.is_stopped else left

    def _decode(self, first: int, last: int) -> str:
        return str(self._tokenizer.decode(self._tokens[first:last], skip_special_tokens=True))

    def _without_stop(self, new: str) -> str:
        """Text up to the first stop; the beginning of one is held back."""
        if self._is_first:
            new = new.lstrip()  # tokenizers write a space in front of the first word
            self._is_first = not new
        text = self._held + new
        ends = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if ends:
            self.is_stopped, self._held = True, ""
            return text[: min(ends)]
        held = max((n for stop in self._stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]
