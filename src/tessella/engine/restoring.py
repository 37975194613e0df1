"""Pictures of a prompt as the encoder got them, restored from their normalised pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from ..core.errors import UnsupportedError
from ..core.layout import NEWLINE, Block, Layout
from ..models.adapter import Adapter, Statistics
from ..models.footprint import Footprint
from .encoder import Picture

Box = tuple[float, float, float, float]  # left, top, right, bottom, as shares of width and height
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


def restored(adapter: Adapter, pictures: Sequence[Picture]) -> list[Image.Image]:
    """One picture for each block that has patches: what its tokens show, without what only pads a mosaic.

    Raises UnsupportedError for pictures that came as features.
    """
    out = []
    for picture in pictures:
        if not picture.has_pixels and not picture.shown:
            raise UnsupportedError("the last prompt came without pixels; give show(images=...) the pictures.")
        footprint = picture.footprint
        items = picture.shown or adapter.restore(picture.content, footprint)
        for block, item in zip(footprint.blocks, footprint.items, strict=True):
            if block.columns:
                image = _as_image(items[item], adapter.pixel_statistics())
                left, top, right, bottom = seen_part(footprint, block, item)
                size = (left * image.width, top * image.height, right * image.width, bottom * image.height)
                out.append(image.crop(tuple(map(round, size))))  # type: ignore[arg-type]
    return out


def seen_part(footprint: Footprint, block: Block, item: int) -> Box:
    """The part of encoder item `item` from which the tokens of a block are made; all of it outside mosaics."""
    if block.top is None:
        return WHOLE
    layout = Layout.build([range(footprint.num_tokens)], [footprint.blocks])
    here = (layout.tile[0] == block.tile) & (layout.frame[0] == block.frame) & (layout.role[0] != NEWLINE)
    size = footprint.num_patches // footprint.num_items
    side = math.isqrt(size)
    patches = footprint.patches[here]
    places = patches[patches // size == item] - item * size
    row, column = places // side, places % side
    edges = (column.min(), row.min(), column.max() + 1, row.max() + 1)
    left, top, right, bottom = (int(edge) / side for edge in edges)
    return left, top, right, bottom


def seen_at(pictures: Sequence[Image.Image]) -> str:
    """In words, how large the pictures were that a model saw: 'read as pictures of 56 x 56 pixels'."""
    sizes = list(dict.fromkeys(f"{p.width} x {p.height}" for p in pictures))
    return f"read as {'a picture' if len(pictures) == 1 else 'pictures'} of {', '.join(sizes)} pixels"


def _as_image(pixels: Tensor, statistics: Statistics) -> Image.Image:
    """A picture from normalised pixels `[c, h, w]`."""
    mean, std = (torch.tensor(s, device=pixels.device).view(3, 1, 1) for s in statistics)
    values = ((pixels.float() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())
