"""How many tokens a cut leaves by its depth: shapes of the way from all tokens to what the last cut leaves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

Shape = Callable[[float, float], float]

SHAPES: Final[dict[str, Shape]] = {  # (depth, last share) -> share; depth is 0 in front of layer 0, 1 at the last cut
    "pyramid": lambda depth, last: last**depth,
    "cosine": lambda depth, last: last + (1 - last) * (1 + math.cos(math.pi * depth)) / 2,
    "linear": lambda depth, last: 1 - (1 - last) * depth,
    "quadratic": lambda depth, last: 1 - (1 - last) * depth**2,
}


def left_at(shape: str, layer: int, last_layer: int, first: int, last: int) -> int:
    """Tokens that a cut in front of `layer` leaves of `first` ones, if that in front of `last_layer` leaves `last`.

    To the nearest number, of which an even one at one half.

    >>> [left_at("pyramid", layer, 24, 576, 72) for layer in (8, 16, 24)]
    [288, 144, 72]
    >>> [left_at("quadratic", layer, 31, 1659, 166) for layer in (0, 8, 16, 31)]
    [1659, 1560, 1261, 166]
    """
    if layer == last_layer or first == 0:
        return last
    return round(first * SHAPES[shape](layer / last_layer, last / first))
