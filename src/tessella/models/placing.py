"""From placeholders and footprints to the layout of a batch of prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from ..core.errors import LayoutError
from ..core.layout import THUMBNAIL, Block, Layout
from .adapter import Adapter
from .footprint import Footprint
from .on_host import on_host


@dataclass(frozen=True)
class Placed:
    """A layout and, in the order of its tokens, the footprint behind each part: (modality, number in the modality).

    `is_unpadded`: whether the prompts' mask hides nothing; None where there is no such mask.
    """

    layout: Layout
    parts: tuple[tuple[str, int], ...]
    is_unpadded: bool | None


@dataclass(frozen=True)
class _Part:
    """One footprint on its placeholders; `number` counts in its modality, `image` in its prompt and modality."""

    modality: str
    number: int
    image: int
    slots: Int[Tensor, " V"]
    footprint: Footprint


def place(adapter: Adapter, inputs: Mapping[str, Any], given: Mapping[str, Sequence[Footprint]]) -> Placed | None:
    """Lay footprints on the placeholders of a forward's arguments, in order; None where placeholders are not known.

    Raises LayoutError where placeholders and footprints do not match.
    """
    names = [m for m in adapter.modalities if m in given]
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    told = {n: on_host(inputs[n]) for n in ("input_ids", "mm_token_type_ids") if inputs.get(n) is not None}
    inputs = {**inputs, **told}
    found = [adapter.slots(m, inputs) for m in names]
    if any(f is None for f in found) or not found:
        return None
    where = on_host(torch.stack(found))  # type: ignore[arg-type]
    whole = isinstance(mask, Tensor) and mask.shape == where[0].shape
    is_unpadded = bool(on_host(mask).all()) if whole else None  # type: ignore[arg-type]
    tokens: Tensor = inputs["inputs_embeds"] if ids is None else inputs["input_ids"]
    slots, blocks, parts = [], [], []
    used = dict.fromkeys(names, 0)
    for row in range(where.shape[1]):
        mine: list[_Part] = []
        for name, here in zip(names, where[:, row], strict=True):
            places = here.nonzero().reshape(-1)
            taken = _take(name, row, places, given[name], used[name])
            mine += _as_parts(adapter, name, tokens[row], places, taken, used[name])
            used[name] += len(taken)
        mine.sort(key=lambda p: int(p.slots[0]))
        slots.append(torch.cat([p.slots for p in mine]) if mine else torch.empty(0, dtype=torch.long))
        blocks.append(_blocks(mine))
        parts += [(p.modality, p.number) for p in mine]
    for name in names:
        if any(f.num_tokens for f in given[name][used[name] :]):
            raise LayoutError(
                f"{len(given[name])} {_plural(name)} were given but the prompts hold placeholders for {used[name]}."
            )
    return Placed(Layout.build(slots, blocks), tuple(parts), is_unpadded)


def _take(
    name: str, row: int, places: Int[Tensor, " V"], given: Sequence[Footprint], first: int
) -> Sequence[Footprint]:
    """The footprints, from `first` on, that fill the placeholders of a row."""
    last, total = first, 0
    while last < len(given) and total < len(places):
        total += given[last].num_tokens
        last += 1
    if total != len(places):
        grids = [(b.rows, b.columns) for f in given[first:last] for b in f.blocks]
        raise LayoutError(
            f"sample {row} has {len(places)} {name} placeholders but its {last - first} {_singular(name)}(s) {grids} "
            f"need {total}."
        )
    return given[first:last]


def _as_parts(
    adapter: Adapter,
    name: str,
    tokens: Tensor,
    places: Int[Tensor, " V"],
    taken: Sequence[Footprint],
    first: int,
) -> list[_Part]:
    images = adapter.image_numbers(tokens, places, taken)
    pieces = places.split([f.num_tokens for f in taken])
    rows = enumerate(zip(images, pieces, taken, strict=True))
    return [_Part(name, first + i, image, piece, f) for i, (image, piece, f) in rows if f.num_tokens]


def _blocks(parts: Sequence[_Part]) -> list[Block]:
    """The blocks of a prompt: images numbered in the order in which they stand, the tiles of each from 0."""
    images: dict[tuple[str, int], list[Footprint]] = {}
    for part in parts:
        images.setdefault((part.modality, part.image), []).append(part.footprint)
    out: list[Block] = []
    for image, tiles in enumerate(images.values()):
        first = 0
        for i, footprint in enumerate(tiles):
            is_thumbnail = len(tiles) > 1 and i == len(tiles) - 1
            out += footprint.as_image(image, first, THUMBNAIL if is_thumbnail else None)
            first += max(b.tile for b in footprint.blocks) + 1
    return out


def _singular(name: str) -> str:
    return "picture" if name == "image" else "clip"


def _plural(name: str) -> str:
    return _singular(name) + "s"


def layout_of(adapter: Adapter, inputs: Mapping[str, Any]) -> Layout | None:
    """The layout of a forward's arguments, which hold pixels; None if there are no pixels, or no placeholders known."""
    given = {
        name: [f for entry in adapter.footprints(name, inputs) for f in entry]
        for name, modality in adapter.modalities.items()
        if inputs.get(modality.pixels) is not None
    }
    placed = place(adapter, inputs, given) if given else None
    return None if placed is None else placed.layout
