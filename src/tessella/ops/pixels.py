"""Normalised pictures `[c, h, w]` resized, and cut into square tiles."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def resized_to(picture: Float[Tensor, "c _ _"], height: int, width: int) -> Float[Tensor, "c {height} {width}"]:
    """A picture at another size by antialiased bicubic interpolation in float32; itself if it has that size.

    >>> resized_to(torch.zeros(3, 4, 6), 2, 9).shape
    torch.Size([3, 2, 9])
    """
    if picture.shape[1:] == (height, width):
        return picture
    values = torch.nn.functional.interpolate(
        picture[None].float(), size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return values[0].to(picture.dtype)


def cut_tiles(picture: Float[Tensor, "c _ _"], side: int) -> Float[Tensor, "r k c {side} {side}"]:
    """The tiles of a picture, `r` rows of `k`; what is missing at the bottom and at the right is zero.

    >>> cut_tiles(torch.ones(3, 5, 8), 4).sum(dim=(2, 3, 4))
    tensor([[48., 48.],
            [12., 12.]])
    """
    height, width = picture.shape[1:]
    whole = torch.nn.functional.pad(picture, (0, -width % side, 0, -height % side))
    return whole.unfold(1, side, side).unfold(2, side, side).permute(1, 2, 0, 3, 4)
