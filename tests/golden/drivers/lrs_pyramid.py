"""Attention over a level, newlines among it; tokens chosen by ratio and by threshold, and the tiles under them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recorded import Golden, negated

from tessella.reduction import lrs_pyramid


def lowest(function: Callable[..., Any]) -> Callable[..., Any]:
    """The attention with the sign flipped."""
    return lambda attention, count: function(-attention, count)


FLIPS = {"attention": (lrs_pyramid, "highest", lowest), "stretched attention": (lrs_pyramid, "stretch", negated)}


def replay(file: Golden) -> None:
    attention = torch.from_numpy(file["attention"])
    rows, columns = file["token_hw_with_newline"].tolist()
    count = int(len(attention) * file.number("ratio"))
    kept = lrs_pyramid.with_newlines(lrs_pyramid.highest(attention, count), (rows, columns))
    for name, places in (
        ("keep_indices_ratio", kept),
        ("keep_indices_threshold_0p2", lrs_pyramid.above(attention, file.number("threshold"))),
    ):
        assert len(places) == len(file[name]), f"{name}: the numbers of places differ"
        file.compare(name, places)
    tiles = lrs_pyramid.tiles_under(kept, (rows, columns), tuple(file["next_block_hw"].tolist()))
    file.compare("selected_tile_rc", tiles.nonzero())
