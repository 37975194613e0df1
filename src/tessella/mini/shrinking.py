"""Make training pictures smaller, so that the model knows pictures of fewer tokens."""

from __future__ import annotations

from random import Random

import torch.nn.functional as F
from torch import Tensor

from tessella.mini.world import PATCH, SIDE


def shrink(pixels: Tensor, chance: Random, least: int = 3, most: int = SIDE // PATCH) -> Tensor:
    """Pictures [B, 3, H, W] of `least` to `most` patches a side, width and height apart, one size for all of them."""
    sides = [PATCH * chance.randint(least, most) for _ in range(2)]
    mode = chance.choice(("bicubic", "bilinear", "area"))
    if mode == "area":
        return F.interpolate(pixels, size=sides, mode="area")
    return F.interpolate(pixels, size=sides, mode=mode, antialias=True).clamp(0, 1)
