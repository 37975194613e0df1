"""Merging tokens into chosen ones."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def assignment_weights(target: Int[Tensor, "B N"], num_targets: int) -> Float[Tensor, "B {num_targets} N"]:
    """Share of each token in the target that it is assigned to; -1 is assigned to none. Rows sum to one, or to zero.

    >>> assignment_weights(torch.tensor([[0, 0, -1, 1]]), 3)
    tensor([[[0.5000, 0.5000, 0.0000, 0.0000],
             [0.0000, 0.0000, 0.0000, 1.0000],
             [0.0000, 0.0000, 0.0000, 0.0000]]])
    """
    member = (target[:, None, :] == torch.arange(num_targets, device=target.device)[:, None]).float()
    return member / member.sum(dim=2, keepdim=True).clamp(min=1)


def merge_by_mean(
    tokens: Float[Tensor, "B N C"], target: Int[Tensor, "B N"], num_targets: int
) -> Float[Tensor, "B {num_targets} C"]:
    """Mean of the tokens assigned to each target, in float32; zero for a target without tokens.

    A matrix product and no scattered addition, so that a GPU gives the same bits each time.

    >>> merge_by_mean(torch.tensor([[[1.0], [3.0], [9.0], [5.0]]]), torch.tensor([[0, 0, -1, 1]]), 2)
    tensor([[[2.],
             [5.]]])
    """
    return assignment_weights(target, num_targets) @ tokens.float()
