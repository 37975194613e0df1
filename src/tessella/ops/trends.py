"""Trends of a score along a raster: what they are made of, how they are fitted, and how they are divided out."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.layout import CLASS, NEWLINE, Layout

SIZES: Final = {"exp": 1, "cubic": 3}  # coefficients of each form


def trend(form: str, coefficients: tuple[float, ...], place: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """f(i) / f(0) at places i: `exp(b i)` of the form "exp", `1 + c1 i + c2 i^2 + c3 i^3` of "cubic".

    >>> trend("cubic", (0.5, 0.0, 0.25), torch.arange(3.0))
    tensor([1.0000, 1.7500, 4.0000])
    """
    if form == "exp":
        return (coefficients[0] * place).exp()
    first, second, third = coefficients
    return 1 + place * (first + place * (second + place * third))


def falling_weights(form: str, coefficients: tuple[float, ...], length: int) -> Float[Tensor, " N"]:
    """f(0) / f(i) of a trend at its `length` places, each at most that in front of it; float64.

    >>> falling_weights("cubic", (1.0, -0.5, 0.0), 3)
    tensor([1.0000, 0.6667, 0.6667], dtype=torch.float64)
    """
    place = torch.arange(length, dtype=torch.float64)
    return (1 / trend(form, coefficients, place)).cummin(dim=0).values


def read_curve(curve: Float[Tensor, " N"], share: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """A curve at shares of its length from 0 to 1, linear between its places.

    >>> read_curve(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0.0, 0.25, 1.0]))
    tensor([1.0000, 0.7500, 0.0000])
    """
    last = len(curve) - 1
    place = share * last
    before = place.long().clamp(max=max(last - 1, 0))
    return torch.lerp(curve[before], curve[(before + 1).clamp(max=last)], place - before)


def fit_trend(form: str, mean: Float[Tensor, " N"]) -> tuple[float, ...]:
    """Coefficients of the trend of mean scores by place; values that are not finite say nothing.

    "exp" by least squares on the logarithm of those above 0, with b = 0 where they fall; "cubic" on the scores
    themselves. Raises ValueError where there are fewer places than unknowns, or a cubic that is not above 0 throughout.

    >>> [round(c, 6) for c in fit_trend("exp", 3 * (0.25 * torch.arange(8, dtype=torch.float64)).exp())]
    [0.25]
    """
    mean = mean.double()
    known = mean.isfinite() & ((mean > 0) | (form != "exp"))
    if int(known.sum()) < SIZES[form] + 1:
        raise ValueError(f"{int(known.sum())} places with a score; the form {form!r} needs {SIZES[form] + 1}")
    last = max(len(mean) - 1, 1)
    share = torch.arange(len(mean), dtype=torch.float64) / last  # from 0 to 1, for a well-conditioned fit
    powers = torch.stack([share**p for p in range(SIZES[form] + 1)], dim=1)
    target = mean[known].log() if form == "exp" else mean[known]
    solved = torch.linalg.lstsq(powers[known], target[:, None]).solution[:, 0]
    if form == "exp":
        return (max(float(solved[1]) / last, 0.0),)
    if not bool((powers @ solved > 0).all()):
        raise ValueError("the cubic through the mean scores is not above 0 at every place")
    return tuple(float(c / solved[0]) / last**p for p, c in enumerate(solved) if p)


def raster_share(layout: Layout) -> Float[Tensor, "B V"]:
    """How far each token is along its own grid, row by row, before any cut: 0 to 1; -1 where it is of no grid.

    >>> raster_share(Layout.single(1, 2, 2))
    tensor([[0.0000, 0.3333, 0.6667, 1.0000]], dtype=torch.float64)
    """
    out = torch.full(layout.slot.shape, -1.0, dtype=torch.float64)
    patch = layout.mask & (layout.role != NEWLINE) & (layout.role != CLASS)
    for b, blocks in enumerate(layout.blocks):
        for block in (k for k in blocks if k.columns):  # a lone newline has the key of the grid in front of it
            mine = patch[b] & (layout.image[b] == block.image) & (layout.tile[b] == block.tile)
            mine &= layout.frame[b] == block.frame
            place = (layout.row[b] * block.columns + layout.column[b]).double()
            out[b] = torch.where(mine, place / max(block.rows * block.columns - 1, 1), out[b])
    return out
