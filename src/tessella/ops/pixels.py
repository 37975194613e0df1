"""Normalised pictures `[c, h, w]` resized, and cut into square tiles; how much their patches vary in grey."""

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


def patch_entropy(colours: Float[Tensor, "B 3 h w"], rows: int, columns: int) -> Float[Tensor, "B {rows} {columns}"]:
    """Entropy in bits of the grey values of each patch, of which `rows` x `columns` fill a picture.

    `colours` are from 0 to 255, and are rounded; grey is the rounded mean of the three. What is left over at the right
    and at the bottom is not read.

    >>> patch_entropy(torch.tensor([0.0, 9.0, 9.0, 0.0]).expand(1, 3, 2, 4), 1, 2)
    tensor([[[1., 1.]]])
    """
    grey = colours.float().round().mean(dim=1).round().clamp(0, 255).long()
    height, width = grey.shape[1] // rows, grey.shape[2] // columns
    patches = grey[:, : rows * height, : columns * width].reshape(-1, rows, height, columns, width)
    values = patches.transpose(2, 3).flatten(3)
    counts = torch.zeros(*values.shape[:3], 256, device=grey.device).scatter_add_(
        3, values, torch.ones_like(values).float()
    )
    share = counts / (height * width)
    return -(share * torch.log2(share + 1e-10)).sum(dim=3)
