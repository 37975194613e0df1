"""The greedy loop: take the token with the highest value, fold it into the state, go on; and what is built on it."""

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


def farthest_first(
    unit: Float[Tensor, "B V C"],
    num_picks: Sequence[int],
    mask: Bool[Tensor, "B V"],
    first: Int[Tensor, " B"] | None = None,
    weight: Float[Tensor, "B V"] | None = None,
    cosines: Float[Tensor, "B V V"] | None = None,
) -> Int[Tensor, "B K"]:
    """Picks as far as can be from the nearest pick before them (max-min, k-center), as `pick_greedily` gives them.

    Distance is 1 - cosine of the rows of `unit`, which have length one, times a `weight` >= 0 of the candidate. The
    first pick is `first`, else the token of highest weight, else the first token. Similarities to a pick are computed
    when it is taken, in O(V C), or read from all `cosines` where they are at hand.

    >>> angle = torch.tensor([[0.0, 0.1, 1.0, 1.5]])
    >>> unit = torch.stack([angle.cos(), angle.sin()], dim=2)
    >>> farthest_first(unit, (3,), torch.ones(1, 4, dtype=torch.bool), first=torch.tensor([1]))
    tensor([[1, 3, 2]])
    """

    def absorb(state: tuple[Tensor, Tensor], pick: Tensor) -> tuple[Tensor, Tensor]:
        nearest = torch.minimum(state[1], 1 - _to_pick(unit, pick, cosines))
        return nearest if weight is None else nearest * weight, nearest

    opening = _opening(mask, first, weight)
    return pick_greedily((opening, torch.full_like(opening, torch.inf)), _value, absorb, num_picks, mask)


def max_sum(
    unit: Float[Tensor, "B V C"], num_picks: Sequence[int], mask: Bool[Tensor, "B V"], first: Int[Tensor, " B"]
) -> Int[Tensor, "B K"]:
    """Picks whose cosines to all picks before them sum to the least, after `first`, as `pick_greedily` gives them.

    Rows of `unit` have length one. O(V C) a pick and O(V) of memory.

    >>> angle = torch.tensor([[0.0, 0.1, 1.0, 1.5]])
    >>> unit = torch.stack([angle.cos(), angle.sin()], dim=2)
    >>> max_sum(unit, (3,), torch.ones(1, 4, dtype=torch.bool), first=torch.tensor([1]))
    tensor([[1, 3, 0]])
    """

    def absorb(state: tuple[Tensor, Tensor], pick: Tensor) -> tuple[Tensor, Tensor]:
        total = state[1] + _to_pick(unit, pick)
        return -total, total

    opening = _opening(mask, first)
    return pick_greedily((opening, torch.zeros_like(opening)), _value, absorb, num_picks, mask)


def _value(state: tuple[Tensor, Tensor]) -> Float[Tensor, "B V"]:
    """What the next pick maximises, of a state that holds it beside what it is made of."""
    return state[0]


def _opening(
    mask: Bool[Tensor, "B V"], first: Int[Tensor, " B"] | None, weight: Float[Tensor, "B V"] | None = None
) -> Float[Tensor, "B V"]:
    """What the first pick maximises."""
    if first is not None:
        return (torch.arange(mask.shape[1], device=mask.device) == first[:, None]).float()
    return torch.zeros(mask.shape, device=mask.device) if weight is None else weight


def _to_pick(
    unit: Float[Tensor, "B V C"], pick: Int[Tensor, " B"], cosines: Float[Tensor, "B V V"] | None = None
) -> Float[Tensor, "B V"]:
    """Cosine of each token to one pick an item."""
    items = torch.arange(len(unit), device=unit.device)
    return (unit @ unit[items, pick][:, :, None])[:, :, 0] if cosines is None else cosines[items, pick]
