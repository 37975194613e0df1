"""How many directions a set of vectors fills, and how even weights are: what tells simple pictures from rich ones."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from ..core.errors import MethodError

RANK_METHODS = ("gram", "svd", "participation")


def effective_rank(
    vectors: Float[Tensor, "B N C"], mask: Bool[Tensor, "B N"] | None = None, by: str = "gram"
) -> Float64[Tensor, " B"]:
    """Effective rank of each item's (real) vectors about their mean, in float64, from 1 to min(N - 1, C).

    With singular values s and p = s / sum(s) it is exp(-sum p log p), Roy and Vetterli's. `by` says how: "svd" takes
    singular values; "gram" the roots of the eigenvalues of the smaller Gram matrix, which is as good to 1e-5 and
    several times as fast; "participation" is another number, sum(s^2)^2 / sum(s^4), smaller, without a decomposition.
    Identical vectors, which fill no direction, count as 1. Decompositions wait for a GPU; participation does not.
    Raises MethodError for another `by`.

    >>> corners = torch.eye(5)[None]  # five points, equally far from each other, span four dimensions
    >>> round(effective_rank(corners).item(), 6)
    4.0
    """
    if by not in RANK_METHODS:
        raise MethodError(f"an effective rank is taken by one of {', '.join(RANK_METHODS)}; got {by!r}.")
    centred = _centred(vectors, mask)
    if by == "svd":
        return entropy(_without_noise(torch.linalg.svdvals(centred), centred)).exp()
    across = centred.shape[1] > centred.shape[2]
    gram = centred.transpose(1, 2) @ centred if across else centred @ centred.transpose(1, 2)
    if by == "participation":
        total, squares = gram.diagonal(dim1=1, dim2=2).sum(dim=1), gram.square().sum(dim=(1, 2))
        return torch.where(squares > 0, total.square() / squares, 1)
    return entropy(_without_noise(torch.linalg.eigvalsh(gram), centred).sqrt()).exp()


def entropy(weights: Float[Tensor, "B N"], mask: Bool[Tensor, "B N"] | None = None) -> Float[Tensor, " B"]:
    """Entropy in nats of each item's (real) weights, all >= 0, taken as shares of their sum; 0 where they sum to 0.

    Of a class token's attention row it is the attention entropy: high where no patch stands out. Half precision is
    summed in float32.

    >>> entropy(torch.full((1, 4), 0.3))  # log 4
    tensor([1.3863])
    """
    weights = weights if weights.dtype == torch.float64 else weights.float()
    if mask is not None:
        weights = weights.masked_fill(~mask, 0)
    total = weights.sum(dim=1, keepdim=True)
    return torch.special.entr(weights / torch.where(total > 0, total, 1)).sum(dim=1)


def _centred(vectors: Float[Tensor, "B N C"], mask: Bool[Tensor, "B N"] | None) -> Float64[Tensor, "B N C"]:
    """A copy in float64 with the mean of the real vectors taken away, and zero where there is padding."""
    vectors = vectors.double()
    if mask is None:
        return vectors - vectors.mean(dim=1, keepdim=True)
    real = mask[:, :, None]
    mean = vectors.masked_fill(~real, 0).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)
    return (vectors - mean).masked_fill(~real, 0)


def _without_noise(values: Float64[Tensor, "B M"], of: Float64[Tensor, "B N C"]) -> Float64[Tensor, "B M"]:
    """Singular values or eigenvalues, with those of the size of rounding errors set to zero."""
    floor = values.amax(dim=1, keepdim=True) * torch.finfo(values.dtype).eps * max(of.shape[1:])
    return torch.where(values > floor, values, 0)
