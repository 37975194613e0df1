"""What is special about each family, read off its adapter and a tiny model."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ..core.layout import NEWLINE, THUMBNAIL, Block
from .families import adapters

if TYPE_CHECKING:
    from ..testing.families import TinyFamily

CLIP_FRAMES = 4


@dataclass(frozen=True)
class FamilyFacts:
    """A family in words and numbers.

    - `prepared`: what pictures and a clip of the tiny model become, by their size in words.
    - `patches_per_token`: the encoder's patches behind one visual token.
    - `sliding_layers`: decoder layers of the tiny model that see a window, of how many.
    """

    id: str
    model_types: tuple[str, ...]
    about: str
    takes_clips: bool
    prepared: Mapping[str, str]
    patches_per_token: int
    has_class_token: bool
    position_axes: int
    sliding_layers: tuple[int, int]
    encoder_window: int | None
    has_deepstack: bool


def family_facts() -> list[FamilyFacts]:
    """Facts of every family that has an adapter and a tiny model, and that the installed transformers has."""
    from ..testing.families import tiny_families

    return [_facts(tiny_families()[name], cls) for name, cls in sorted(adapters().items()) if name in tiny_families()]


def _facts(family: TinyFamily, adapter_class: type) -> FamilyFacts:
    from ..models.adapter import find_adapter

    adapter = find_adapter(family.model())
    first = adapter.footprints("image", family.inputs())[0][0]
    layers = range(adapter.info.num_layers)
    return FamilyFacts(
        id=family.id,
        model_types=adapter.model_types,
        about=inspect.getdoc(inspect.getmodule(adapter_class)) or "",
        takes_clips=family.takes_video,
        prepared=_prepared(family, adapter),
        patches_per_token=int((first.patches >= 0).sum(dim=1).max()),
        has_class_token=adapter.info.has_class_token,
        position_axes=3 if adapter.info.multi_axis_positions else 1,
        sliding_layers=(sum(adapter.mask_rule(n) is not None for n in layers), len(layers)),
        encoder_window=getattr(adapter, "window", None),
        has_deepstack=adapter.deepstack is not None,
    )


def _prepared(family: TinyFamily, adapter: Any) -> dict[str, str]:
    """What pictures of the family's sizes and a clip become."""
    from ..models.placing import layout_of

    cases: dict[str, dict[str, Any]] = {f"picture of {w} x {h}": {"images": [[(w, h)]]} for w, h in family.sizes}
    if family.takes_video:
        width, height = family.sizes[0]
        cases[f"clip of {CLIP_FRAMES} frames of {width} x {height}"] = {
            "videos": [[(CLIP_FRAMES, family.sizes[0])]],
        }
    out = {}
    for name, case in cases.items():
        layout = layout_of(adapter, family.inputs(**case))
        assert layout is not None
        newlines = int((layout.role == NEWLINE).sum())
        out[name] = describe_blocks(layout.blocks[0], newlines)
    return out


def describe_blocks(blocks: Sequence[Block], newlines: int = 0) -> str:
    """The grids of one prompt in words: 'thumbnail 4 x 4, mosaic 4 x 8 of 2 tiles, 4 newlines'."""
    parts = []
    for (kind, in_mosaic), group in groupby((b for b in blocks if b.columns), _kind):
        mine = list(group)
        if in_mosaic:
            rows, columns = max((b.top or 0) + b.rows for b in mine), max(b.left + b.columns for b in mine)
            parts.append(f"mosaic {rows} x {columns} of {len(mine)} tiles")
            continue
        for size, same in groupby(mine, lambda b: f"{b.rows} x {b.columns}"):
            count = len(list(same))
            parts.append(f"{kind} {size}" if count == 1 else f"{count} {kind}s {size}")
    if newlines:
        parts.append("1 newline" if newlines == 1 else f"{newlines} newlines")
    return ", ".join(parts)


def _kind(block: Block) -> tuple[str, bool]:
    return "thumbnail" if block.role == THUMBNAIL else "grid", block.top is not None
