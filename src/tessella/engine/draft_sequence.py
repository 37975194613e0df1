"""The tokens of a rewritten prompt: which one of the given prompt each was, and what its arguments become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..core.errors import UnsupportedError
from ..core.layout import Layout

_BY_TOKEN = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids", "inputs_embeds")


@dataclass(frozen=True)
class DraftSequence:
    """The tokens of a rewritten prompt: which one each was, and a text token in place of added padding."""

    host_origin: Int[Tensor, "B R"]
    origin: Int[Tensor, "B R"]  # the same on the device
    index: Int[Tensor, "B R"]

    @classmethod
    def of(cls, arguments: Mapping[str, Any], repeats: Int[Tensor, "B S"], text: Int[Tensor, " B"]) -> DraftSequence:
        """Rows of their new lengths, padded on the side on which the prompts are. `text`: a text token of each."""
        mask = mask_of(arguments)
        places = torch.arange(repeats.shape[1])
        rows = [places.repeat_interleave(r) for r in repeats]
        width = max(map(len, rows))
        origin = torch.full((len(rows), width), -1)
        if all(len(r) == width for r in rows):
            origin = torch.stack(rows)
        elif mask is None:
            raise UnsupportedError(
                "prompts of different lengths are padded, which takes an attention_mask; give it with the inputs."
            )
        else:
            given = mask.cpu() != 0
            right = bool((given[:, 0] & ~given[:, -1]).any())
            for out, row in zip(origin, rows, strict=True):
                out[slice(len(row)) if right else slice(width - len(row), width)] = row
            origin = _without_padding(origin, given, right)
        device = tokens_of(arguments).device
        index = torch.where(origin < 0, text[:, None], origin)
        return cls(origin, origin.to(device), index.to(device))

    def take(self, name: str, value: Any) -> Any:
        """An argument for the new tokens; one that is not by token stays."""
        if name not in _BY_TOKEN or value is None:
            return value
        if name == "position_ids":
            return self._positions(value)
        index = self.index if value.ndim == 2 else self.index[:, :, None].expand(-1, -1, value.shape[2])
        out = value.gather(1, index)
        return out.masked_fill(self.origin < 0, 0) if name == "attention_mask" else out

    def _positions(self, given: Tensor) -> Tensor:
        """Positions without those of tokens that are gone."""
        if given.ndim != 2:
            raise UnsupportedError("position_ids of several axes cannot follow pictures of another size.")
        real = self.origin >= 0
        lost = self.origin - (real.cumsum(dim=1) - 1)
        return torch.where(real, given.expand(len(self.index), -1).gather(1, self.index) - lost, 0)


def tokens_of(arguments: Mapping[str, Any]) -> Tensor:
    """A prompt's ids or embeddings."""
    ids = arguments.get("input_ids")
    return arguments["inputs_embeds"] if ids is None else ids


def length_of(arguments: Mapping[str, Any]) -> int:
    """Tokens of a prompt, padding included."""
    return int(tokens_of(arguments).shape[1])


def mask_of(arguments: Mapping[str, Any]) -> Int[Tensor, "B S"] | None:
    """The attention mask, if there is one. Raises UnsupportedError for one that is not by token."""
    mask = arguments.get("attention_mask")
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
        raise UnsupportedError(
            "an attention_mask that is not [batch, tokens] cannot follow pictures of another size; give the "
            "two-dimensional one."
        )
    return mask


def through(later: Int[Tensor, "B R"], earlier: Int[Tensor, "B S"]) -> Int[Tensor, "B R"]:
    """The origin of an origin."""
    return torch.where(later < 0, -1, earlier.gather(1, later.clamp(min=0)))


def visual_places(layout: Layout, length: int) -> Bool[Tensor, "B S"]:
    """True at the visual tokens of prompts of `length` tokens."""
    out = torch.zeros(len(layout.slot), length + 1, dtype=torch.bool)
    return out.scatter(1, torch.where(layout.mask, layout.slot, length), True)[:, :length]


def _without_padding(origin: Int[Tensor, "B R"], given: Bool[Tensor, "B S"], right: bool) -> Int[Tensor, "B R"]:
    """Rows without the columns at the padded side that are padding in each, but for those that the prompts had."""
    real = (origin >= 0) & given.gather(1, origin.clamp(min=0))
    spare, had = (int(_at_side(r.any(dim=0), right)) for r in (real, given))
    drop = max(spare - had, 0)
    return origin[:, : origin.shape[1] - drop] if right else origin[:, drop:]


def _at_side(used: Bool[Tensor, " S"], right: bool) -> int:
    """Unused columns in front of the first used one, or behind the last."""
    places = used.nonzero()[:, 0].tolist()
    return (len(used) - 1 - places[-1]) if right else places[0]
