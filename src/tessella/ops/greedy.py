"""The greedy loop: take the token with the highest value, fold it into the state, go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import on_device

S = TypeVar("S")


def pick_greedily(
    state: S,
    value: Callable[[S], Float[Tensor, "B V"]],
    absorb: Callable[[S, Int[Tensor, " B"]], S],
    num_picks: Sequence[int],
    mask: Bool[Tensor, "B V"],
) -> Int[Tensor, "B K"]:
    """Take `num_picks[b]` different tokens of each item one after the other, in the order taken, padded with -1.

    Each round takes the token of highest `value(state)` (finite or +inf; the lower index among equals), then
    `state = absorb(state, picks)` with one pick an item. Padded tokens are never taken. Nothing waits for the device.

    Spread three picks over a line, each as far from those before as it can be:

    >>> points = torch.tensor([[0.0, 1.0, 5.0, 9.0]])
    >>> nearest = torch.full((1, 4), 99.0)
    >>> fold = lambda near, pick: torch.minimum(near, (points - points.gather(1, pick[:, None])).abs())
    >>> pick_greedily(nearest, lambda near: near, fold, (3,), torch.ones(1, 4, dtype=torch.bool))
    tensor([[0, 3, 2]])
    """
    most = max(num_picks, default=0)
    closed = ~mask
    picks = torch.empty(len(mask), most, dtype=torch.long, device=mask.device)
    for step in range(most):
        pick = value(state).masked_fill(closed, -torch.inf).argmax(dim=1)
        picks[:, step] = pick
        if step + 1 < most:
            closed = closed.scatter(1, pick[:, None], True)
            state = absorb(state, pick)
    wanted = on_device(num_picks, mask.device)
    return torch.where(torch.arange(most, device=mask.device) < wanted[:, None], picks, -1)
