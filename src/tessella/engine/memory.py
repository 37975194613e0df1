"""What a method remembers through one prompt: values of tokens stay with their tokens, whoever cuts and how."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor


class Memory:
    """Values by name; a tensor `[U, W, ...]` of the tokens of a cut's units is held by the prompt's own tokens."""

    def __init__(self, num_rows: int, num_tokens: int) -> None:
        self._size = num_rows, num_tokens
        self._other: dict[str, Any] = {}
        self._of_tokens: dict[str, Tensor] = {}

    def recall(self, rows: Int[Tensor, " U"], tokens: Int[Tensor, "U W"]) -> dict[str, Any]:
        """The values of units whose tokens are `tokens` (padded with -1) of the prompts `rows`."""
        where = rows[:, None], tokens.clamp(min=0)
        return {**self._other, **{name: values[where] for name, values in self._of_tokens.items()}}

    def store(self, values: dict[str, Any], rows: Int[Tensor, " U"], tokens: Int[Tensor, "U W"]) -> None:
        """Take over what a method has left in its state, or changed; a name that is gone is forgotten."""
        num_rows, num_tokens = self._size
        self._other = {}
        self._of_tokens = {n: v for n, v in self._of_tokens.items() if n in values}
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.shape[:2] != tokens.shape:
                self._of_tokens.pop(name, None)
                self._other[name] = value
                continue
            held = self._of_tokens.get(name)
            if held is None or held.shape[2:] != value.shape[2:] or held.dtype != value.dtype:
                held = value.new_zeros(num_rows, num_tokens + 1, *value.shape[2:])  # one place for padding
                self._of_tokens[name] = held
            held[rows[:, None], torch.where(tokens < 0, num_tokens, tokens)] = value
