"""Cosine similarity, in float32."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def normalize(vectors: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
    """Vectors of length one, in float32; a zero vector stays zero.

    >>> normalize(torch.tensor([[[3.0, 4.0]]]))
    tensor([[[0.6000, 0.8000]]])
    """
    return torch.nn.functional.normalize(vectors.float(), dim=2, eps=1e-12)


def cosine_similarity(a: Float[Tensor, "B N C"], b: Float[Tensor, "B M C"]) -> Float[Tensor, "B N M"]:
    """Cosine of the angle between every vector of `a` and every vector of `b`, in float32.

    >>> cosine_similarity(torch.randn(2, 5, 8), torch.randn(2, 3, 8)).shape
    torch.Size([2, 5, 3])
    """
    return normalize(a) @ normalize(b).transpose(1, 2)
