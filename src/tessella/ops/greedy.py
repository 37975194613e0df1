"""The greedy loop: take the token with the highest value, fold it into the state, go on; and what is built on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import on_device

# gains alive at once in `cover_most`: 64 MiB of float32, on a CPU 2 MiB, which stay in its cache
BLOCK_ELEMENTS, CPU_BLOCK_ELEMENTS = 2**24, 2**19

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
    return _wanted(picks, num_picks)


def farthest_first(
    unit: Float[Tensor, "B V C"],
    num_picks: Sequence[int],
    mask: Bool[Tensor, "B V"],
    first: Int[Tensor, " B"] | None = None,
    weight: Float[Tensor, "B V"] | None = None,
    distances: Float[Tensor, "B V V"] | None = None,
) -> Int[Tensor, "B K"]:
    """Picks whose distance to the nearest pick before them is largest (max-min), as `pick_greedily` gives them.

    The distance between rows of `unit`, of length one, is 1 - cosine, times a `weight` >= 0 of the candidate. The first
    pick is `first`, else the token of highest weight, else the first token. Distances to a pick are computed when it is
    taken, in O(V C), or read from `distances` where all are at hand.

    >>> angle = torch.tensor([[0.0, 0.1, 1.0, 1.5]])
    >>> unit = torch.stack([angle.cos(), angle.sin()], dim=2)
    >>> farthest_first(unit, (3,), torch.ones(1, 4, dtype=torch.bool), first=torch.tensor([1]))
    tensor([[1, 3, 2]])
    """

    def absorb(state: tuple[Tensor, Tensor], pick: Tensor) -> tuple[Tensor, Tensor]:
        nearest = torch.minimum(state[1], _to_pick(unit, pick, distances))
        return nearest if weight is None else nearest * weight, nearest

    opening = _opening(mask, first, weight)
    return pick_greedily((opening, torch.full_like(opening, torch.inf)), _value, absorb, num_picks, mask)


def max_sum(
    unit: Float[Tensor, "B V C"],
    num_picks: Sequence[int],
    mask: Bool[Tensor, "B V"],
    first: Int[Tensor, " B"] | None = None,
) -> Int[Tensor, "B K"]:
    """Picks whose distances to all picks before them sum to the most, as `pick_greedily` gives them.

    Distances, their cost and the first pick are those of `farthest_first`. A sum favours outliers, copies of each other
    among them.

    >>> angle = torch.tensor([[0.0, 0.1, 1.0, 1.5]])
    >>> unit = torch.stack([angle.cos(), angle.sin()], dim=2)
    >>> max_sum(unit, (3,), torch.ones(1, 4, dtype=torch.bool), first=torch.tensor([1]))
    tensor([[1, 3, 0]])
    """

    def absorb(total: Tensor, pick: Tensor) -> Tensor:
        return total + _to_pick(unit, pick)

    opening = _opening(mask, first)  # stays in the sums: zero for all but the first pick, which is not picked again
    return pick_greedily(opening, lambda total: total, absorb, num_picks, mask)


def distance(a: Float[Tensor, "B N C"], b: Float[Tensor, "B M C"]) -> Float[Tensor, "B N M"]:
    """1 - cosine between vectors of length one, in [0, 2].

    >>> distance(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]]))
    tensor([[[1., 2.]]])
    """
    return 1 - a @ b.transpose(1, 2)


def cover_most(
    worth: Float[Tensor, "B V R"],
    num_picks: Sequence[int],
    mask: Bool[Tensor, "B V"],
    block: int | None = None,
    besides: Float[Tensor, "B V"] | None = None,
) -> Int[Tensor, "B K"]:
    """Picks that together are worth the most to R targets, by greedy coverage, as `pick_greedily` gives them.

    A target has the worth, >= 0, of the best pick for it; `worth[b, v, r]` is that of token v to target r. The sum over
    targets is submodular: greedy picks reach at least 1 - 1/e of the best. `besides`, >= 0, is what a token is worth
    whatever else is picked, which keeps it so. O(V R) a pick; beside `worth`, gains are computed for `block` tokens at
    a time, in at most 64 MiB, on a CPU 2 MiB.

    >>> worth = torch.tensor([[[3.0, 0.0, 3.0], [0.0, 3.0, 2.0], [2.0, 2.0, 2.0]]])
    >>> cover_most(worth, (2,), torch.ones(1, 3, dtype=torch.bool))
    tensor([[0, 1]])
    >>> cover_most(worth, (2,), torch.ones(1, 3, dtype=torch.bool), besides=torch.tensor([[0.0, 2.0, 0.0]]))
    tensor([[1, 0]])
    """
    batch, num_tokens, num_targets = worth.shape
    items = torch.arange(batch, device=worth.device)
    elements = CPU_BLOCK_ELEMENTS if worth.device.type == "cpu" else BLOCK_ELEMENTS
    blocks = worth.split(block or max(1, elements // max(1, batch * num_targets)), dim=1)
    covered = worth.new_zeros(batch, num_targets)
    anyway = worth.new_zeros(batch, num_tokens) if besides is None else besides
    anyway = anyway.masked_fill(~mask, -torch.inf)  # and for tokens that are picked
    most = max(num_picks, default=0)
    picks = torch.empty(batch, most, dtype=torch.long, device=mask.device)
    for step in range(most):  # few operations a pick: there are hundreds of picks, and each is short
        added = [(b - covered[:, None]).relu_().sum(dim=2) for b in blocks]
        pick = (added[0] if len(added) == 1 else torch.cat(added, dim=1)).add_(anyway).argmax(dim=1)
        picks[:, step] = pick
        anyway.scatter_(1, pick[:, None], -torch.inf)
        covered = torch.maximum(covered, worth[items, pick])
    return _wanted(picks, num_picks)


def _wanted(picks: Int[Tensor, "B K"], num_picks: Sequence[int]) -> Int[Tensor, "B K"]:
    """The first `num_picks[b]` picks of each item, the others -1."""
    wanted = on_device(num_picks, picks.device)
    return torch.where(torch.arange(picks.shape[1], device=picks.device) < wanted[:, None], picks, -1)


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
    unit: Float[Tensor, "B V C"], pick: Int[Tensor, " B"], distances: Float[Tensor, "B V V"] | None = None
) -> Float[Tensor, "B V"]:
    """Distance of each token to one pick an item."""
    items = torch.arange(len(unit), device=unit.device)
    return distance(unit, unit[items, pick][:, None])[:, :, 0] if distances is None else distances[items, pick]
