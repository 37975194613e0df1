"""A text tower of random vectors, for models that have no other."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

DIMENSIONS = 16


class RandomTower:
    """Texts as sums of vectors drawn for their words, and patches through one drawn matrix of `width` rows.

    >>> tower = RandomTower(8)
    >>> one, same, other = tower.of_texts(["a red star", "star a red", "a red circle"])
    >>> torch.equal(one, other), torch.allclose(one, same)
    (False, True)
    >>> tower.of_patches(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 16])
    """

    def __init__(self, width: int) -> None:
        self._matrix = _drawn("patches", width, DIMENSIONS)

    def of_texts(self, texts: Sequence[str]) -> Float[Tensor, "B D"]:
        return torch.stack([sum((_drawn(w, DIMENSIONS) for w in t.split()), torch.zeros(DIMENSIONS)) for t in texts])

    def of_patches(self, hidden: Float[Tensor, "*B Ce"]) -> Float[Tensor, "*B D"]:
        return hidden.float() @ self._matrix.to(hidden.device)


def _drawn(name: str, *shape: int) -> Tensor:
    """Standard normal numbers that depend on the name."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
