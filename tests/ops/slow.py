"""Slow references of operators, written from the definition: what fast ones are compared with, and timed against."""

from __future__ import annotations

import torch
from torch import Tensor


def farthest_first(tokens: Tensor, keep: int) -> list[int]:
    """Picks `[keep]` of tokens `[N, C]`: each the farthest from those before it, which it is compared with anew.

    The first is the token whose nearest other is farthest. Distance is 1 - cosine; equal distances: the earlier token.
    """
    unit = torch.nn.functional.normalize(tokens, dim=1)
    near = 1 - unit @ unit.T
    near.fill_diagonal_(torch.inf)
    picks: list[int] = []
    for _ in range(keep):
        nearest = (1 - unit @ unit[picks].T if picks else near).amin(dim=1)
        nearest[picks] = -torch.inf
        picks.append(int(nearest.argmax()))
    return picks
