"""Entropic optimal transport by Sinkhorn's iterations: how mass of some tokens is best moved onto others.

Batches are ragged by mass: a token of mass 0 is padding, whose row or column of the plan is zero.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sinkhorn(
    cost: Float[Tensor, "B N M"],
    rows: Float[Tensor, "B N"],
    columns: Float[Tensor, "B M"],
    epsilon: float,
    iterations: int = 100,
) -> Float[Tensor, "B N M"]:
    """Plan that moves the masses `rows` onto `columns` at least cost, less `epsilon` times its entropy.

    In the log domain, so that no cost is too large. After each iteration the columns' sums are exact, and those of the
    rows come near. An item that has no mass on one side has a plan of zeros.

    >>> cost = torch.tensor([[[0.0, 0.1], [0.3, 0.0]]])
    >>> sinkhorn(cost, torch.full((1, 2), 0.5), torch.tensor([[0.9, 0.1]]), epsilon=0.1)
    tensor([[[0.4978, 0.0022],
             [0.4022, 0.0978]]])
    """
    kernel = -cost / epsilon
    to_rows, to_columns = rows.log(), columns.log()
    c = torch.where(columns > 0, 0.0, -torch.inf)
    r = torch.zeros_like(to_rows)
    for _ in range(iterations):
        r = (to_rows - (kernel + c[:, None, :]).logsumexp(dim=2)).masked_fill(rows == 0, -torch.inf)
        c = (to_columns - (kernel + r[:, :, None]).logsumexp(dim=1)).masked_fill(columns == 0, -torch.inf)
    plan = (kernel + r[:, :, None] + c[:, None, :]).exp()
    return plan.masked_fill((rows == 0)[:, :, None] | (columns == 0)[:, None, :], 0.0)


def sinkhorn_until(
    cost: Float[Tensor, "B N M"],
    rows: Float[Tensor, "B N"],
    columns: Float[Tensor, "B M"],
    epsilon: float,
    tolerance: float,
    iterations: int = 100,
    together: Int[Tensor, " B"] | None = None,
) -> Float[Tensor, "B N M"]:
    """The plan at which the iterations stop as soon as the rows' scalings change by less than `tolerance` on average.

    The average is over an item's rows or, with `together`, over those of all items of the same number. An item that has
    stopped stays as it is while others go on, so that a GPU need not be waited for to end the loop. Not in the log
    domain: costs are at most some 80 `epsilon`.

    One iteration is enough where only a large change would ask for another:

    >>> cost, half = torch.tensor([[[0.0, 0.1], [0.3, 0.0]]]), torch.full((1, 2), 0.5)
    >>> sinkhorn_until(cost, half, half, epsilon=0.1, tolerance=1.0)
    tensor([[[0.4695, 0.1101],
             [0.0305, 0.3899]]])
    """
    pairs = (rows > 0)[:, :, None] & (columns > 0)[:, None, :]
    kernel = (-cost / epsilon).exp().masked_fill(~pairs, 0.0)
    least = torch.finfo(kernel.dtype).tiny
    joint = torch.eye(len(cost), device=cost.device) if together is None else (together[:, None] == together).float()
    shared = joint @ (rows > 0).sum(dim=1).float()
    r, c = torch.ones_like(rows), torch.ones_like(columns)
    done = torch.zeros(len(cost), 1, dtype=torch.bool, device=cost.device)
    for _ in range(iterations):
        next_r = rows / (kernel @ c[:, :, None])[:, :, 0].clamp(min=least)
        next_c = columns / (next_r[:, None, :] @ kernel)[:, 0].clamp(min=least)
        change = joint @ ((next_r - r).abs() * (rows > 0)).sum(dim=1).float() / shared.clamp(min=1)
        r, c = torch.where(done, r, next_r), torch.where(done, c, next_c)
        done = done | (change < tolerance)[:, None]
        if done.device.type == "cpu" and bool(done.all()):  # nothing changes any more
            break
    return r[:, :, None] * kernel * c[:, None, :]


def absorb(
    tokens: Float[Tensor, "B M C"], weights: Float[Tensor, "B N M"], others: Float[Tensor, "B N C"]
) -> Float[Tensor, "B M C"]:
    """Each token, with weight one, averaged with the others by their weights in it.

    >>> absorb(torch.tensor([[[1.0], [5.0]]]), torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[3.0]]]))
    tensor([[[2.],
             [5.]]])
    """
    return (tokens + weights.transpose(1, 2) @ others) / (1 + weights.sum(dim=1)[:, :, None])
