"""Inputs rewritten by the first methods of a pipeline, and the way back from the rewritten prompt to the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ..core.budget import Counts, resolve_counts
from ..core.errors import MethodError, UnsupportedError
from ..core.layout import Block, Layout
from ..core.pipeline import Part
from ..core.rewriting import Draft
from ..models.adapter import Adapter
from ..models.placing import layout_of
from .cache import Ledger
from .plan import scope_of

_BY_TOKEN = ("input_ids", "attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids", "inputs_embeds")
_OF_PICTURES = ("pixel_values", "image_sizes", "interpolate_pos_encoding", "image_grid_thw")


@dataclass(frozen=True)
class Rewrite:
    """How a rewritten prompt came from the user's, which had `length` tokens and the visual tokens of `layout`.

    - `origin [B, R]`: place in the user's prompt of each token of the rewritten one; -1 for padding that was added. A
      new picture's tokens stand at placeholders of the old one.
    - `visual [B, R]`: True for visual tokens.
    - `removed [B]`: tokens that each row lost.
    - `moved`: True where positions were given by the user, who counts without padding.
    """

    layout: Layout
    length: int
    origin: Int[Tensor, "B R"]
    visual: Bool[Tensor, "B R"]
    removed: Int[Tensor, " B"]
    moved: bool

    def repeat(self, batch: int) -> Rewrite:
        """The same for a batch in which each row stands several times: beams, samples."""
        times = batch // len(self.origin)
        if times == 1:
            return self
        rows = torch.arange(len(self.origin)).repeat_interleave(times)
        layout = self.layout.gather(_all_tokens(self.layout)[rows], rows.tolist())
        origin, visual, removed = (t[rows.to(t.device)] for t in (self.origin, self.visual, self.removed))
        return Rewrite(layout, self.length, origin, visual, removed, self.moved)

    def places(self, places: Int[Tensor, "B S"]) -> Int[Tensor, "B S"]:
        """Places in the rewritten prompt, or behind it, as places of the user's; -1 for visual tokens and padding."""
        mapped = self._of_user(places, torch.where(self.visual, -1, self.origin))
        return torch.where(mapped < 0, -1, mapped)

    def hand_over(self, ledger: Ledger, moved: bool) -> None:
        """Make a ledger speak of the user's prompt, whose placeholders that are gone it then counts as dropped.

        `moved`: True where positions were counted without padding, as `generate` does.
        """
        wide = self.length - self.origin.shape[1]
        for stored in ledger.segments:
            whole = self.repeat(len(stored.places))
            stored.places = whole._of_user(stored.places, whole.origin.clamp(min=0))
            if ledger.position_memory is not None:
                continue  # the model counts on from there, on each of its axes
            lost = whole.removed if moved else torch.full_like(whole.removed, wide)
            stored.shift = lost if stored.shift is None else stored.shift + lost
        if ledger.position_memory is not None:
            removed = self.repeat(len(ledger.position_memory)).removed
            ledger.position_memory = ledger.position_memory - removed[:, None]
        ledger.full_length += wide

    def cut_labels(self, labels: Tensor, ignore_index: int = -100) -> Tensor:
        """Labels of the rewritten prompt's tokens; padding that was added is ignored, and predicts nothing."""
        whole = self.repeat(len(labels))
        origin = whole.origin.to(labels.device)
        added = origin < 0
        behind = nn.functional.pad(added[:, :-1], (1, 0))
        return labels.gather(1, origin.clamp(min=0)).masked_fill(added | behind, ignore_index)

    def _of_user(self, places: Tensor, origin: Tensor) -> Tensor:
        length = origin.shape[1]
        inside = origin.gather(1, places.clamp(max=length - 1))
        return torch.where(places < length, inside, places + self.length - length)


class EngineDraft(Draft):
    """A draft for one adapter. `origin` is that of a `Rewrite`; None while nothing has changed."""

    def __init__(
        self,
        adapter: Adapter,
        arguments: Mapping[str, Any],
        layout: Layout,
        pictures: Sequence[Tensor],
        origin: Int[Tensor, "B R"] | None = None,
    ) -> None:
        self.info = adapter.info
        self.arguments, self.layout, self.pictures = arguments, layout, tuple(pictures)
        self.origin = origin
        self._adapter = adapter

    def picture_size(self, rows: int, columns: int) -> tuple[int, int]:
        return self._adapter.picture_size(rows, columns)

    def encode(self, pictures: Sequence[Tensor]) -> list[Tensor]:
        return list(self._adapter.encode_pictures(pictures, self.arguments).pooler_output)  # type: ignore[arg-type]

    def replace(self, pictures: Sequence[Sequence[Tensor]]) -> EngineDraft:
        if len(pictures) != len(self.pictures):
            raise MethodError(
                f"the prompts hold {len(self.pictures)} pictures; {len(pictures)} replacements were given."
            )
        if all(len(new) == 1 and new[0] is old for new, old in zip(pictures, self.pictures, strict=True)):
            return self
        blocks, repeats = self._plan(pictures)
        sequence = _Sequence.of(
            self.arguments, repeats, _visual(self.layout, repeats.shape[1]).to(torch.int8).argmin(dim=1)
        )
        origin = sequence.origin if self.origin is None else _through(sequence.origin, self.origin)
        slots = self._slots(sequence)
        arguments = {n: sequence.take(n, v) for n, v in self.arguments.items()}
        flat = [p for new in pictures for p in new]
        return EngineDraft(self._adapter, arguments, Layout.build(slots, blocks), flat, origin)

    def finish(self) -> dict[str, Any]:
        """Arguments with the pictures encoded."""
        out = {n: v for n, v in self.arguments.items() if n not in _OF_PICTURES}
        if self.pictures:
            out["mm_encoder_outputs"] = {"image": self._adapter.encode_pictures(self.pictures, self.arguments)}
            out |= self._adapter.picture_arguments(self.pictures)
        return out

    def _plan(self, pictures: Sequence[Sequence[Tensor]]) -> tuple[list[list[Block]], Int[Tensor, "B S"]]:
        """The new blocks of each row, and how often each token of a row stands in the new one."""
        layout, given = self.layout, iter(pictures)
        repeats = torch.ones(len(layout.slot), _length(self.arguments), dtype=torch.long)
        blocks: list[list[Block]] = []
        for row, count in enumerate(layout.num_tokens):
            mine: list[Block] = []
            for image in range(layout.num_images[row]):
                slots = layout.slot[row, :count][layout.image[row, :count] == image]
                before, number = sum(b.num_tokens for b in mine), mine[-1].image + 1 if mine else 0
                for picture in next(given):
                    mine += self._adapter.picture_blocks(picture, number)
                    number += 1
                wanted = sum(b.num_tokens for b in mine) - before
                repeats[row, slots[wanted:]] = 0
                if wanted > len(slots):
                    repeats[row, slots[-1]] += wanted - len(slots)
            blocks.append(mine)
        return blocks, repeats

    def _slots(self, sequence: _Sequence) -> list[Tensor]:
        """Slots of the new visual tokens."""
        visual = _visual(self.layout, _length(self.arguments))
        here = visual.gather(1, sequence.host_origin.clamp(min=0)) & (sequence.host_origin >= 0)
        return [row.nonzero()[:, 0] for row in here]


@dataclass(frozen=True)
class _Sequence:
    """The tokens of a rewritten prompt: which one each was, and a text token in place of added padding."""

    host_origin: Int[Tensor, "B R"]
    origin: Int[Tensor, "B R"]  # the same on the device
    index: Int[Tensor, "B R"]

    @classmethod
    def of(cls, arguments: Mapping[str, Any], repeats: Int[Tensor, "B S"], text: Int[Tensor, " B"]) -> _Sequence:
        """Rows of their new lengths, padded on the side on which the prompts are. `text`: a text token of each."""
        mask = arguments.get("attention_mask")
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise UnsupportedError(
                "an attention_mask that is not [batch, tokens] cannot follow pictures of another size; give the "
                "two-dimensional one."
            )
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
        device = arguments["input_ids" if arguments.get("input_ids") is not None else "inputs_embeds"].device
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


def rewrite(
    adapter: Adapter, parts: Sequence[Part], arguments: dict[str, Any]
) -> tuple[dict[str, Any], Rewrite | None]:
    """Arguments as the rewriting methods `parts` want them, and how they came about; None if they stay as they are.

    Raises UnsupportedError for pictures that are encoded already, and for clips, which would stay as they are.
    """
    encoded = arguments.get("mm_encoder_outputs") or {}
    for name, modality in adapter.modalities.items():
        if name != "image" and (arguments.get(modality.pixels) is not None or encoded.get(name) is not None):
            raise UnsupportedError(f"{parts[0].method.id} changes pictures, but the prompts hold a {name}.")
    if arguments.get("pixel_values") is None:
        if encoded.get("image") is not None:
            raise UnsupportedError(
                f"{parts[0].method.id} changes pictures before they are encoded, but the call was given "
                "mm_encoder_outputs. Give pixel_values instead."
            )
        return arguments, None
    layout = layout_of(adapter, arguments)
    if layout is None or not sum(layout.num_tokens):
        return arguments, None
    draft = EngineDraft(adapter, arguments, layout, adapter.pictures(arguments))
    for part in parts:
        changed = part.method.rewrite(draft, _counts_of(part, draft.layout))  # type: ignore[attr-defined]
        if not isinstance(changed, EngineDraft):
            raise MethodError(f"{part.method.id}: rewrite() must return a draft; got {type(changed).__name__}.")
        draft = changed
    if draft.origin is None:
        return arguments, None
    origin, moved = draft.origin, arguments.get("position_ids") is not None
    lost = [b - a for b, a in zip(layout.num_tokens, draft.layout.num_tokens, strict=True)]
    visual = _visual(draft.layout, origin.shape[1]).to(origin.device)
    removed = torch.tensor(lost, device=origin.device)
    return draft.finish(), Rewrite(layout, _length(arguments), origin, visual, removed, moved)


def _counts_of(part: Part, layout: Layout) -> Counts:
    """What each picture may keep; pictures of a wider scope share its budget by largest remainder."""
    units = layout.split("image")
    if part.budget is None:
        return Counts(units.num_tokens, units.num_tokens, asked=False)
    card = part.method.card
    scope = scope_of(part.method, part.budget)
    return resolve_counts(part.budget, layout, units, scope=scope, rounding=card.rounding, min_keep=card.min_keep)


def _length(arguments: Mapping[str, Any]) -> int:
    ids = arguments.get("input_ids")
    return int((arguments["inputs_embeds"] if ids is None else ids).shape[1])


def _through(later: Int[Tensor, "B R"], earlier: Int[Tensor, "B S"]) -> Int[Tensor, "B R"]:
    """The origin of an origin."""
    return torch.where(later < 0, -1, earlier.gather(1, later.clamp(min=0)))


def _visual(layout: Layout, length: int) -> Bool[Tensor, "B S"]:
    """True at the visual tokens of prompts of `length` tokens."""
    out = torch.zeros(len(layout.slot), length + 1, dtype=torch.bool)
    return out.scatter(1, torch.where(layout.mask, layout.slot, length), True)[:, :length]


def _all_tokens(layout: Layout) -> Int[Tensor, "B V"]:
    here = torch.arange(layout.slot.shape[1]).expand_as(layout.slot)
    return torch.where(layout.mask, here, -1)


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
