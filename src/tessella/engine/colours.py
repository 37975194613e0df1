"""Values of the encoder's patches that are read off the colours of pictures."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.errors import UnsupportedError
from ..core.view import ReadColours
from ..models.adapter import Adapter
from ..models.footprint import Footprint, one_grid
from .encoder import Encoding


def colour_values(adapter: Adapter, encoding: Encoding, read: ReadColours) -> Float[Tensor, " N"]:
    """What `read` gives for each patch of an encoding, in the order in which the encoder holds them.

    Raises UnsupportedError where the encoded tokens are of a method's making, and show no picture of their own.
    """
    if encoding.shown is not None:
        raise UnsupportedError("colours of patches are read, but an earlier step has made tokens of several pictures.")
    size = adapter.entry.config.vision_config.patch_size
    patch = (size, size) if isinstance(size, int) else tuple(size)
    pixels = adapter.pixels(encoding.modality, encoding.arguments)
    return torch.cat(
        [
            in_encoder_order(read_picture(adapter, p, footprint, patch, read), footprint, adapter)
            for p, footprint in zip(pixels, encoding.footprints, strict=True)
        ]
    )


def read_picture(
    adapter: Adapter, pixels: Tensor, footprint: Footprint, patch: tuple[int, ...], read: ReadColours
) -> Float[Tensor, "I N"]:
    """What `read` gives for the patches, each of `patch` = (height, width), of each encoder item of a footprint."""
    shown = torch.stack(adapter.restore(pixels, footprint)).float()
    mean, std = (torch.tensor(s).to(shown.device, non_blocking=True).view(-1, 1, 1) for s in adapter.pixel_statistics())
    rows, columns = (pixels // each for pixels, each in zip(shown.shape[2:], patch, strict=True))
    whole = shown[:, :, : rows * patch[0], : columns * patch[1]]
    return read((whole * std + mean) * 255, rows, columns)


def in_encoder_order(values: Float[Tensor, "I N"], footprint: Footprint, adapter: Adapter) -> Float[Tensor, " N"]:
    """Values in raster order of each item as one row, in the encoder's own order."""
    if not adapter.info.packs_pictures:
        return values.flatten()
    raster, first = [], 0
    for block in footprint.blocks:  # each is an item
        raster.append(first + one_grid(block.rows, block.columns, adapter.info.merge).patches)
        first += math.prod(raster[-1].shape)
    place, where = (t.flatten().to(values.device, non_blocking=True) for t in (footprint.patches, torch.cat(raster)))
    return torch.zeros_like(values).flatten().index_copy(0, place, values.flatten()[where])
