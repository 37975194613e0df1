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


def spread(
    tokens: Tensor, keep: int, first: int | None = None, weight: Tensor | None = None, total: bool = False
) -> list[int]:
    """Picks whose least distance to those before them, or with `total` their sum, is largest, times a weight.

    Every distance is computed anew for each pick. Without `first` the first is the one of highest weight.
    """
    weight = torch.ones(len(tokens), dtype=tokens.dtype) if weight is None else weight
    picks: list[int] = []
    for _ in range(keep):
        values = {}
        for i in (i for i in range(len(tokens)) if i not in picks):
            apart = [1 - float(torch.cosine_similarity(tokens[i], tokens[p], dim=0)) for p in picks]
            opening = 1.0 if first is None else float(i == first)
            values[i] = float(weight[i]) * ((sum(apart) if total else min(apart)) if apart else opening)
        picks.append(max(values, key=lambda i: (values[i], -i)))
    return picks


def coverage(worth: Tensor, keep: int) -> list[int]:
    """Picks of tokens of which `worth [N, R]` says what they are worth to each target, each with the largest gain."""
    picks: list[int] = []
    for _ in range(keep):
        gains = {
            i: float(worth[[*picks, i]].amax(dim=0).sum() - (worth[picks].amax(dim=0).sum() if picks else 0))
            for i in range(len(worth))
            if i not in picks
        }
        best = max(gains.values())
        picks.append(min(i for i, gain in gains.items() if gain > best - 1e-9))
    return picks
