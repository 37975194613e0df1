"""Shares of a count among groups of tokens (rows, tiles, frames, crops), and the best tokens of each group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core.budget import on_device

LeftOver = Literal["fraction", "weight"]


def group_sizes(group: Int[Tensor, "B V"], num_groups: int) -> Int[Tensor, "B {num_groups}"]:
    """Tokens of each group; -1 is in none.

    >>> group_sizes(torch.tensor([[0, 2, 0, -1]]), 3)
    tensor([[2, 0, 1]])
    """
    sizes = torch.zeros(len(group), num_groups + 1, dtype=torch.long, device=group.device)
    return sizes.scatter_add(1, torch.where(group >= 0, group, num_groups), torch.ones_like(group))[:, :num_groups]


def sums_by_group(values: Float[Tensor, "B V"], group: Int[Tensor, "B V"], num_groups: int) -> Float[Tensor, "B G"]:
    """Sum of the values of each group, in float32; -1 is in none.

    A matrix product and no scattered addition, so that a GPU gives the same bits each time.

    >>> sums_by_group(torch.tensor([[1.0, 2.0, 4.0, 8.0]]), torch.tensor([[0, 1, 0, -1]]), 2)
    tensor([[5., 2.]])
    """
    member = group[:, None, :] == torch.arange(num_groups, device=group.device)[:, None]
    return (member.float() @ values.float().masked_fill(group < 0, 0.0)[:, :, None])[:, :, 0]


def divide_count(
    weights: Float[Tensor, "B G"],
    totals: Sequence[int],
    sizes: Int[Tensor, "B G"],
    left_over: LeftOver = "fraction",
) -> Int[Tensor, "B G"]:
    """Split `totals[b]` over the groups of each item in proportion to their weights, no group above its size.

    Each group is given the whole part of its share. What is left goes one by one to the groups of largest fraction, or
    of largest weight. What is too much for a group is shared out among those that have room, in proportion to weight
    times room: whole parts first, then one by one, each to the group where that product is largest. Equal ones: more
    room, then the lower group. Weights below zero count as zero; where all are zero, sizes take their place. A group of
    size 0 is padding. A row sums to its total wherever that is at most the sum of its sizes.

    >>> divide_count(torch.tensor([[5.0, 3.0, 2.0]]), (9,), torch.tensor([[9, 9, 9]]))
    tensor([[4, 3, 2]])
    >>> divide_count(torch.tensor([[5.0, 3.0, 2.0]]), (9,), torch.tensor([[9, 9, 9]]), left_over="weight")
    tensor([[5, 3, 1]])
    >>> divide_count(torch.tensor([[98.0, 1.0, 1.0]]), (9,), torch.tensor([[4, 4, 2]]))
    tensor([[4, 4, 1]])
    """
    total = on_device(totals, weights.device)[:, None]
    weights = weights.float().clamp(min=0).masked_fill(sizes == 0, 0.0)
    weights = torch.where(weights.sum(dim=1, keepdim=True) > 0, weights, sizes.float())
    quota, fraction = _whole_shares(weights, total)
    quota = quota + _one_each(fraction if left_over == "fraction" else weights, total - quota.sum(dim=1, keepdim=True))
    quota = torch.minimum(quota, sizes)
    more, _ = _whole_shares(weights * (sizes - quota), total - quota.sum(dim=1, keepdim=True))
    quota = torch.minimum(quota + more, sizes)
    return quota + _by_product(weights, sizes - quota, total - quota.sum(dim=1, keepdim=True), max(totals, default=0))


def picks_by_quota(
    scores: Float[Tensor, "B V"],
    group: Int[Tensor, "B V"],
    quota: Int[Tensor, "B G"],
    mask: Bool[Tensor, "B V"],
    most: int,
) -> Int[Tensor, "B {most}"]:
    """Indices of the `quota[b, g]` best tokens of each group: group by group, best first, padded with -1.

    Equal scores: the lower index. Padded tokens and those of group -1 are never taken. `most` is at least what any item
    takes.

    >>> scores, group = torch.tensor([[1.0, 5.0, 3.0, 4.0]]), torch.tensor([[1, 0, 1, 1]])
    >>> picks_by_quota(scores, group, torch.tensor([[1, 2]]), torch.ones(1, 4, dtype=torch.bool), 4)
    tensor([[ 1,  3,  2, -1]])
    """
    order, taken = _ranked(scores, group, quota, mask)
    front = torch.sort((~taken).to(torch.int8), dim=1, stable=True).indices[:, :most]
    picks = torch.where(taken, order, -1).gather(1, front)
    return torch.nn.functional.pad(picks, (0, most - picks.shape[1]), value=-1)


def take_by_quota(
    scores: Float[Tensor, "B V"], group: Int[Tensor, "B V"], quota: Int[Tensor, "B G"], mask: Bool[Tensor, "B V"]
) -> Bool[Tensor, "B V"]:
    """Mask of the tokens of `picks_by_quota`.

    >>> scores, group = torch.tensor([[1.0, 5.0, 3.0, 4.0]]), torch.tensor([[1, 0, 1, 1]])
    >>> take_by_quota(scores, group, torch.tensor([[1, 2]]), torch.ones(1, 4, dtype=torch.bool))
    tensor([[False,  True,  True,  True]])
    """
    order, taken = _ranked(scores, group, quota, mask)
    return torch.zeros_like(mask).scatter(1, order, taken)


def _ranked(
    scores: Float[Tensor, "B V"], group: Int[Tensor, "B V"], quota: Int[Tensor, "B G"], mask: Bool[Tensor, "B V"]
) -> tuple[Int[Tensor, "B V"], Bool[Tensor, "B V"]]:
    """All tokens group by group, best first, and which of them are within their group's quota."""
    num_groups = quota.shape[1]
    group = torch.where(mask & (group >= 0), group, num_groups)  # the others behind all groups
    order = torch.sort(scores.float(), dim=1, descending=True, stable=True).indices
    order = order.gather(1, torch.sort(group.gather(1, order), dim=1, stable=True).indices)
    sizes = group_sizes(group, num_groups + 1)
    member = group.gather(1, order)
    first = (sizes.cumsum(dim=1) - sizes).gather(1, member)
    allowed = torch.nn.functional.pad(quota, (0, 1)).gather(1, member)
    return order, torch.arange(group.shape[1], device=group.device) - first < allowed


def _whole_shares(
    weights: Float[Tensor, "B G"], total: Int[Tensor, "B 1"]
) -> tuple[Int[Tensor, "B G"], Float[Tensor, "B G"]]:
    """Whole part and fraction of each group's share of a total, in proportion to weights; zero where all are zero."""
    whole = weights.sum(dim=1, keepdim=True)
    share = weights * total / torch.where(whole > 0, whole, 1.0)
    return share.floor().long(), share.frac()


def _one_each(value: Float[Tensor, "B G"], count: Int[Tensor, "B 1"]) -> Int[Tensor, "B G"]:
    """One for each of the `count` groups of largest value, the lower group among equals."""
    order = torch.sort(value, dim=1, descending=True, stable=True).indices
    given = (torch.arange(value.shape[1], device=value.device) < count).long()
    return torch.zeros_like(given).scatter(1, order, given)


def _by_product(
    weights: Float[Tensor, "B G"], room: Int[Tensor, "B G"], count: Int[Tensor, "B 1"], most: int
) -> Int[Tensor, "B G"]:
    """`count` <= `most` tokens one by one, each to the group of largest weight times room that is left.

    A group's n-th token is worth weight times (room - n), which falls with n: so the best of all (group, n) are taken.
    """
    left = room[:, :, None] - torch.arange(most, device=room.device)  # [B, G, most]
    value = (weights[:, :, None] * left).masked_fill(left <= 0, -torch.inf).flatten(1)
    order = torch.sort(left.flatten(1), dim=1, descending=True, stable=True).indices
    order = order.gather(1, torch.sort(value.gather(1, order), dim=1, descending=True, stable=True).indices)
    given = (torch.arange(order.shape[1], device=room.device) < count).long()
    return torch.zeros_like(given).scatter(1, order, given).view(left.shape).sum(dim=2)
